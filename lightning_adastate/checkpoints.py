"""Weights and stream states, in and out: safetensors, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_adastate.backbones.base import Backbone
from lightning_adastate.types import KV, SCHEMA_VERSION, Event, StreamState, TokenPlaces

log = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "assets"
"""Small trained checkpoints shipped with the package."""

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What FSDP, activation checkpointing and torch.compile insert anywhere in a key."""

PREFIXES = ("generator_ema.backbone.", "generator.backbone.", "model.", "net.")
"""What training code puts in front of Wan's own keys, in order of preference."""


def find_file(path: str | Path) -> Path:
    """Return ``path`` if it exists, else the shipped file of that name (``toy/teacher.safetensors``).

    Raises:
        ValueError: If there is neither.
    """
    for candidate in (Path(path), ASSETS / path):
        if candidate.is_file():
            return candidate
    shipped = ", ".join(sorted(str(p.relative_to(ASSETS)) for p in ASSETS.rglob("*.safetensors")))
    raise ValueError(f"there is no weights file {str(path)!r}; shipped are: {shipped or 'none'}")


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a backbone's weights under Wan's own keys.

    A training checkpoint gives its generator's average where it has one, else the generator.

    Args:
        path: A ``.safetensors`` file, or a checkpoint of ours (``.ckpt``), or a name of ``ASSETS``.

    Raises:
        ValueError: If the file is missing, unreadable or holds no weights.
    """
    file, tensors = _read_weights(path)
    weights = _strip(tensors)
    if not weights:
        raise ValueError(f"{str(file)!r} holds no backbone weights")
    return weights


def load_into(module: Backbone, path: str | Path) -> None:
    """Load weights into a backbone, every one of them and nothing else.

    Raises:
        ValueError: Naming the file and the first missing, unexpected or misshapen tensors.
    """
    weights = load_weights(path)
    _fill(type(module).__name__, module.weight_slots(weights), weights, path)


def load_anchor(anchor: nn.Module, path: str | Path) -> None:
    """Load an anchor's own parameters from a training checkpoint, if it has any.

    A file without them (weights of a backbone alone) leaves the anchor as it was built, with a warning.

    Raises:
        ValueError: If the file holds parameters of another anchor.
    """
    if not anchor.state_dict():
        return
    tensors = _read_weights(path)[1]
    for prefix in ("generator_ema.anchor.", "generator.anchor."):
        chosen = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if chosen:
            _fill(type(anchor).__name__, anchor.state_dict(), chosen, path)
            return
    log.warning("%s holds no parameters of the anchor; it stays as it was built", path)


@torch.no_grad()
def _fill(
    what: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: str | Path
) -> None:
    """Copy exactly these weights into its own, or say what does not fit."""
    missing = sorted(own.keys() - weights.keys())
    unexpected = sorted(weights.keys() - own.keys())
    misshapen = [
        f"{key} is {tuple(weights[key].shape)}, expected {tuple(own[key].shape)}"
        for key in sorted(own.keys() & weights.keys())
        if own[key].shape != weights[key].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    found = [f"{len(keys)} {name} ({keys[0]}, ...)" for name, keys in problems.items() if keys]
    if found:
        raise ValueError(f"weights {str(path)!r} do not fit {what}: {'; '.join(found)}")
    for name, tensor in own.items():
        tensor.copy_(weights[name])


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file beside its place and move it there, so it is never half there."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        whole = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()
        }
        save_file(whole, partial, metadata=dict(metadata or {}))
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def save_stream_state(path: str | Path, state: StreamState, *, fingerprint: str = "") -> None:
    """Write everything a stream needs to go on, without pickle.

    Args:
        path: Where to; conventionally ``.safetensors``.
        state: The state.
        fingerprint: ``Streamer.fingerprint`` of the components it belongs to.
    """
    tensors = {"texts": state.texts_PBSD, **{f"codec.{k}": v for k, v in state.codec.items()}}
    blocks = {f"blocks.{i:04d}": block for i, block in enumerate(state.blocks)}
    history = {f"history.{i:04d}": block for i, block in enumerate(state.history)}
    anchor = {f"anchor.{name}": kv for name, kv in state.anchor.items()}
    frames = {**blocks, **history, **anchor}
    for name, kv in frames.items():
        tensors[f"{name}.key"] = kv.key_LBFTND
        tensors[f"{name}.value"] = kv.value_LBFTND
        if kv.places is not None:
            for axis, place in zip(TokenPlaces._fields, kv.places, strict=True):
                tensors[f"{name}.{axis}"] = place
    for name, latents in (("recent", state.recent_BFCHW), ("pending", state.pending_BFCHW)):
        if latents is not None:
            tensors[name] = latents
    header = {
        "schema": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "chunk": state.chunk,
        "first_frame": state.first_frame,
        "latent_shape": state.latent_shape,
        "prompt": state.prompt,
        "seed": state.seed,
        "stream_ids": state.stream_ids,
        "timeline": [dataclasses.asdict(event) for event in state.timeline],
        "births": {name: kv.births for name, kv in frames.items()},
    }
    save_tensors(path, tensors, {"stream_state": json.dumps(header)})


def load_stream_state(
    path: str | Path, *, fingerprint: str = "", device: torch.device | str = "cpu"
) -> StreamState:
    """Read a state back. Call ``Streamer.resume`` on it before going on.

    Raises:
        ValueError: If the file is no stream state, is corrupt, or belongs to other components.
    """
    try:
        tensors, metadata = _read_tensors(Path(path))
        if "stream_state" not in metadata:
            raise ValueError("it holds other tensors")
        header = json.loads(metadata["stream_state"])
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(
            f"cannot read a stream state from {str(path)!r}: {_first_line(error)}"
        ) from error
    if header["schema"] != SCHEMA_VERSION:
        raise ValueError(f"{str(path)!r} has schema {header['schema']}, expected {SCHEMA_VERSION}")
    if fingerprint and header["fingerprint"] not in ("", fingerprint):
        raise ValueError(
            f"the stream state {str(path)!r} was made with another anchor, cache, schedule or "
            "backbone; continue it with the configuration it was made with"
        )
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    frames = {name: _frames(tensors, name, births) for name, births in header["births"].items()}
    return StreamState(
        chunk=header["chunk"],
        first_frame=header["first_frame"],
        latent_shape=tuple(header["latent_shape"]),
        blocks=tuple(frames[name] for name in sorted(frames) if name.startswith("blocks.")),
        history=tuple(frames[name] for name in sorted(frames) if name.startswith("history.")),
        anchor={
            n.removeprefix("anchor."): kv for n, kv in frames.items() if n.startswith("anchor.")
        },
        texts_PBSD=tensors["texts"],
        prompt=header["prompt"],
        seed=header["seed"],
        stream_ids=tuple(header["stream_ids"]),
        timeline=tuple(Event(**event) for event in header["timeline"]),
        recent_BFCHW=tensors.get("recent"),
        pending_BFCHW=tensors.get("pending"),
        codec={n.removeprefix("codec."): t for n, t in tensors.items() if n.startswith("codec.")},
    )


def _frames(tensors: Mapping[str, Tensor], name: str, births: Sequence[int]) -> KV:
    """Return the frames saved under ``name``."""
    places = [tensors.get(f"{name}.{axis}") for axis in TokenPlaces._fields]
    known = [place for place in places if place is not None]
    return KV(
        tensors[f"{name}.key"],
        tensors[f"{name}.value"],
        tuple(births),
        TokenPlaces(*known) if known else None,
    )


def _read_weights(path: str | Path) -> tuple[Path, dict[str, Tensor]]:
    """Return the file meant by ``path`` and its tensors, under the names they have there."""
    file = find_file(path)
    try:
        if file.suffix == ".safetensors":
            tensors = _read_tensors(file)[0]
        elif not zipfile.is_zipfile(file):
            raise ValueError("it is no checkpoint, or is cut short")
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            tensors = loaded.get("state_dict", loaded)
    except Exception as error:  # pickle, zip and safetensors each raise their own
        raise ValueError(
            f"cannot read weights from {str(file)!r}: {_first_line(error)}"
        ) from error
    return file, tensors


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a safetensors file's tensors and metadata."""
    with safe_open(file, framework="pt") as handle:
        names = handle.keys()
        return {name: handle.get_tensor(name) for name in names}, handle.metadata() or {}


def _strip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the backbone's tensors under Wan's own keys."""
    clean = {}
    for key, tensor in tensors.items():
        name = key
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        clean[name] = tensor
    for prefix in PREFIXES:
        chosen = {n.removeprefix(prefix): t for n, t in clean.items() if n.startswith(prefix)}
        if chosen:
            return chosen
    return {name: tensor for name, tensor in clean.items() if isinstance(tensor, Tensor)}


def _first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
