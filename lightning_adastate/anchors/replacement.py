"""Replacement anchor: the newest evicted frames stand in front, whatever they are."""

# Shapes: L layers, B batch, F frames, T tokens, N heads, D head dim.

from __future__ import annotations

from collections.abc import Sequence

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.anchors.static import shown
from lightning_adastate.types import KV, Contents


class ReplacementAnchor(Anchor):
    """Show the newest frames that left the window; every eviction replaces the older ones.

    It is the control of the family: an anchor that always changes and remembers nothing.

    Args:
        num_frames: Frames shown at the front of the window.
    """

    def __init__(self, num_frames: int = 1) -> None:
        super().__init__(num_frames)

    def absorb(self, contents: Contents, evicted: KV, retained: Sequence[KV]) -> Contents:
        """Keep the newest ``num_frames`` of what it had and what was evicted."""
        del retained
        if not self.num_frames:
            return contents
        if evicted.num_frames < self.num_frames and "newest" in contents:
            evicted = KV.cat([contents["newest"], evicted])
        return {"newest": evicted.frames(max(0, evicted.num_frames - self.num_frames))}

    def read(self, contents: Contents, window_start: int) -> tuple[KV, ...]:
        """Show them at their own frame indices."""
        del window_start
        return shown(contents, "newest")
