"""Recorded cases of other implementations: their tensors, and the layout that says what each slot holds."""

from __future__ import annotations

import json
import re
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
    r"noise|text(\.\d+)?|drawn\.\d+|state_noise|renoise_(content|state)|latents|states|state_chunks"
    r"|cache0\.(chunk|recache)\d+\.(k|v)|kv0_[kv]"
)
"""Tensors that are replayed or compared."""

LEFT_ASIDE = re.compile(r"steps|global_end|local_end|cache0\.(chunk|recache)\d+\.k_raw|bank\d+\.k")
"""Tensors of recordings that say what others say as well: settings, lengths, keys before rotation, a bank whose
shown frames are in the caches."""


def read_case(path: str) -> dict[str, Tensor]:
    """Read a case and check that it holds what a replay needs.

    Raises:
        ValueError: If it does not.
    """
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
    return tensors


def read_layout(case: str, layout: str | None) -> Layout:
    """Read a layout file; none beside the case means no event and nothing known of the slots.

    Raises:
        ValueError: If a layout was named and cannot be read.
    """
    path = Path(layout) if layout else Path(case).with_suffix(".layout.json")
    if not path.exists() and layout is None:
        return {"chunks": []}
    try:
        recorded: Layout = json.loads(path.read_text())
        recorded["chunks"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot read the layout {str(path)!r}: {error!r}") from error
    return recorded
