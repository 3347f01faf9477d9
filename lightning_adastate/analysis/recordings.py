"""Recorded cases of other implementations: their tensors, and the layout that says what each slot holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


class LayoutEvent(TypedDict, total=False):
    """What happened before a chunk in the recording."""

    pass_: str | None
    event: str
    kept: list[str]
    cut: bool
    queries: list[str]
    sink_kept: bool


class LayoutChunk(TypedDict, total=False):
    """One chunk of a layout file."""

    chunk: int
    start: int
    text: int
    event: LayoutEvent | None
    denoise: dict[str, list[float]]


class Layout(TypedDict, total=False):
    """A layout file.

    ``chunks`` says what each chunk saw; ``slots_after`` what each cache slot of the recording holds, by tag.
    """

    chunks: list[LayoutChunk]
    slots_after: dict[str, list[str]]


KNOWN = re.compile(
    r"noise|initial_latent|text(\.\d+)?|drawn\.\d+|state_noise|renoise_(content|state)|latents|states|state_chunks"
    r"|cache0\.(chunk|recache)\d+\.(k|v)|kv0_[kv]|loss|loss_weight|grad\..+"
)
"""Tensors that are replayed or compared."""

LEFT_ASIDE = re.compile(r"steps|global_end|local_end|cache0\.(chunk|recache)\d+\.k_raw|bank\d+\.k")
"""Tensors of recordings that say what others say as well: settings, lengths, keys before rotation, a bank whose
shown frames are in the caches."""


class Case(dict[str, Tensor]):
    """A case's tensors, and which of them were looked at: what is left over was not compared."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.used.add(name)
        return super().__getitem__(name)

    @property
    def left_over(self) -> list[str]:
        """Return the tensors that nobody looked at, though they say something of their own."""
        return [n for n in sorted(self.keys() - self.used) if not LEFT_ASIDE.fullmatch(n)]


def read_case(path: str) -> dict[str, Tensor]:
    """Read a case and check that it holds what a replay needs.

    Raises:
        ValueError: If it does not.
    """
    if Path(path).is_dir():
        raise ValueError(f"the case {path!r} is a folder; give its .safetensors file")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read the case {path!r}: {error}") from error
    absent = [name for name in ("noise", "latents") if name not in tensors]
    absent += [
        f"{n[:-1]}v"
        for n in tensors
        if re.fullmatch(r"(cache0\..*\.|kv0_)k", n) and f"{n[:-1]}v" not in tensors
    ]
    if any(name.startswith("grad.") for name in tensors):
        absent += [name for name in ("loss", "loss_weight") if name not in tensors]
    if absent or not any(name == "text" or name.startswith("text.") for name in tensors):
        raise ValueError(f"the case {path!r} lacks {', '.join(absent) or '`text`'}")
    strange = [
        n for n in sorted(tensors) if not KNOWN.fullmatch(n) and not LEFT_ASIDE.fullmatch(n)
    ]
    if strange:
        raise ValueError(
            f"the case {path!r} holds {strange[0]!r}, which replay does not compare; take it out, or rename it to "
            "what it is (see `replay --help`)"
        )
    _check_frames(path, tensors)
    return tensors


def _check_frames(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse latents that are not the given and the generated frames.

    Raises:
        ValueError: Naming both shapes.
    """
    noise, latents = tensors["noise"], tensors["latents"]
    if noise.ndim != 5:
        raise ValueError(
            f"the case {path!r} needs `noise` [B, F, C, H, W], got {list(noise.shape)}"
        )
    wanted, given = list(noise.shape), tensors.get("initial_latent")
    if given is not None:
        own = list(given.shape)
        if given.ndim != 5 or [own[0], *own[2:]] != [wanted[0], *wanted[2:]]:
            raise ValueError(
                f"the case {path!r} needs `initial_latent` like `noise` {wanted}, got {own}"
            )
        wanted[1] += own[1]
    if list(latents.shape) != wanted:
        raise ValueError(
            f"the case {path!r} needs `latents` {wanted}: the frames of `initial_latent`, if there are any, "
            f"and of `noise`; got {list(latents.shape)}"
        )


def read_layout(case: str, layout: str | None) -> Layout:
    """Read a layout file; none beside the case means no event and nothing known of the slots.

    Raises:
        ValueError: If a layout was named and cannot be read.
    """
    path = Path(layout) if layout else Path(case).with_suffix(".layout.json")
    if not path.exists() and layout is None:
        return {"chunks": []}
    try:
        recorded: Layout = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the layout {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"the layout {str(path)!r} is no JSON: {error}") from error
    chunks = recorded.get("chunks") if isinstance(recorded, dict) else None
    if not isinstance(chunks, list) or any(
        not isinstance(each, dict) or "chunk" not in each for each in chunks
    ):
        raise ValueError(
            f"the layout {str(path)!r} needs a list `chunks` of mappings with `chunk`, the number of each"
        )
    return recorded
