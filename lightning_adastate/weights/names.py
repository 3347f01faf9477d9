"""Names of weights: what wrappers and trainers put in front, and diffusers' names for Wan's."""

from __future__ import annotations

from collections.abc import Collection, Iterable

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What FSDP, activation checkpointing and torch.compile insert anywhere in a name."""

OURS = ("generator_ema.backbone.", "generator.backbone.")
"""What our checkpoints put in front of a backbone's names, in order of preference."""

COPIES = ("generator_ema", "generator", "", "critic")
"""Copies of the network that a checkpoint may hold, in order of preference; "" is one without a name."""

WORDS = frozenset(
    {"model", "net", "module", "state_dict", "diffusion_model", "transformer", "backbone"}
)
"""What stands in front of a network's names without saying which copy it is."""

LANDMARK = "patch_embedding.weight"
"""A name that every set of Wan weights has, in Wan's own names and in diffusers'."""

DIFFUSERS = (
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("proj_out.", "head.head."),
    (".attn1.to_out.0.", ".self_attn.o."),
    (".attn2.to_out.0.", ".cross_attn.o."),
    (".attn1.to_", ".self_attn."),
    (".attn2.to_", ".cross_attn."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".norm2.", ".norm3."),
    (".scale_shift_table", ".modulation"),
)
"""Parts of diffusers' names and Wan's for the same, most special first."""


def strip(names: Iterable[str], part: str | None = None) -> dict[str, str]:
    """Return Wan's own name for each name that belongs to the backbone, mapped to the name as it is.

    Args:
        names: Names as they are in a file.
        part: Which copy of the network; ``None`` prefers the generator's average, then the generator.

    Raises:
        ValueError: If that copy is not there, or several may be meant.
    """
    clean = {}
    for name in names:
        bare = name
        for wrapper in WRAPPERS:
            bare = bare.replace(wrapper, "")
        clean[bare] = name
    prefix = _prefix(clean, part)
    return _named({n.removeprefix(prefix): t for n, t in clean.items() if n.startswith(prefix)})


def copies(names: Iterable[str]) -> tuple[str, ...]:
    """Return what stands in front of each copy of a network; a copy has a ``patch_embedding``."""
    fronts = {name.removesuffix(LANDMARK) for name in names if name.endswith(LANDMARK)}
    return tuple(sorted(front for front in fronts if not front or front.endswith(".")))


def _prefix(names: Collection[str], part: str | None) -> str:
    """Return what stands in front of the names of the copy that is wanted."""
    for prefix in OURS:
        if part in (None, prefix.split(".")[0]) and any(n.startswith(prefix) for n in names):
            return prefix
    found = copies(names)
    if part is not None:
        chosen = [front for front in found if part in front.split(".")]
    else:
        least = min((_preference(front) for front in found), default=0)
        chosen = [front for front in found if _preference(front) == least]
    if len(chosen) == 1:
        return chosen[0]
    if not found and part is None:
        return ""
    listed = ", ".join(repr(front) for front in found) or "none"
    wanted = "one network" if part is None else f"one network {part!r}"
    raise ValueError(f"expected {wanted}, found these in front of names: {listed}")


def _preference(front: str) -> int:
    """Return the place of a copy in the order of preference; unknown ones come last."""
    telling = [word for word in front.split(".") if word and word not in WORDS]
    name = telling[0] if telling else ""
    return COPIES.index(name) if name in COPIES else len(COPIES)


def _named(clean: dict[str, str]) -> dict[str, str]:
    """Return them under Wan's names, if they are diffusers'."""
    if not any(name.startswith("condition_embedder.") for name in clean):
        return clean
    return {to_wan(name): original for name, original in clean.items()}


def to_wan(name: str) -> str:
    """Return Wan's name for one of diffusers'."""
    if name == "scale_shift_table":
        return "head.modulation"
    for theirs, ours in DIFFUSERS:
        name = name.replace(theirs, ours)
    return name


def to_diffusers(name: str) -> str:
    """Return diffusers' name for one of Wan's."""
    if name == "head.modulation":
        return "scale_shift_table"
    if name.startswith(("head.head.", "time_", "text_")):
        for theirs, ours in DIFFUSERS[:6]:
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
    for kind, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2")):
        name = name.replace(f".{kind}.o.", f".{theirs}.to_out.0.")
        for projection in "qkv":
            name = name.replace(f".{kind}.{projection}.", f".{theirs}.to_{projection}.")
        name = name.replace(f".{kind}.", f".{theirs}.")
    for theirs, ours in ((".ffn.net.0.proj.", ".ffn.0."), (".ffn.net.2.", ".ffn.2.")):
        name = name.replace(ours, theirs)
    return name.replace(".norm3.", ".norm2.").replace(".modulation", ".scale_shift_table")
