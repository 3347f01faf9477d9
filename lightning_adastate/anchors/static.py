"""Static anchor: the first frames of the stream stay for ever (LongLive, arXiv 2509.22622; Infinity-RoPE)."""

# Shapes: L layers, B batch, F frames, T tokens, N heads, D head dim.

from __future__ import annotations

from collections.abc import Sequence

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.types import KV, Contents


class StaticAnchor(Anchor):
    """Keep the first frames that leave the window, and never change them.

    Args:
        num_frames: Sink frames. Zero is no anchor at all (Self-Forcing).
    """

    def __init__(self, num_frames: int = 1) -> None:
        super().__init__(num_frames)

    def absorb(self, contents: Contents, evicted: KV, retained: Sequence[KV]) -> Contents:
        """Fill up to ``num_frames`` with the oldest evicted frames; let the rest go."""
        del retained
        return fill(contents, evicted, self.num_frames)

    def read(self, contents: Contents, window_start: int) -> tuple[KV, ...]:
        """Show the sink at its own frame indices."""
        del window_start
        return shown(contents, "sink")

    def num_claimed(self, contents: Contents, num_evicted: int) -> int:
        """Claim what still fits into the sink."""
        return min(num_evicted, self.num_frames - self.num_shown(contents))


def shown(contents: Contents, name: str) -> tuple[KV, ...]:
    """Return the frames of that name as what an anchor shows: one part, or none yet."""
    return (contents[name],) if name in contents else ()


def fill(contents: Contents, evicted: KV, num_frames: int, name: str = "sink") -> Contents:
    """Return ``contents`` with ``name`` filled up to ``num_frames`` from the oldest evicted frames."""
    have = contents.get(name)
    missing = num_frames - (have.num_frames if have is not None else 0)
    if missing <= 0:
        return contents
    new = evicted.frames(0, missing)
    return {**contents, name: new if have is None else KV.cat([have, new])}
