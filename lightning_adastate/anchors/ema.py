"""EMA anchor: evicted frames are folded into a running average (Reward Forcing, arXiv 2512.04678)."""

# Shapes: L layers, B batch, F frames, T tokens, N heads, D head dim.

from __future__ import annotations

from collections.abc import Sequence

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.anchors.static import fill, shown
from lightning_adastate.types import KV, Contents


class EMAAnchor(Anchor):
    """Average every evicted frame into the anchor, slot by slot, before any rotary embedding.

    The first evicted frames fill the slots. A later frame goes to the slot of its frame index
    modulo ``num_frames``, so every slot keeps moving with any chunk size.

    Args:
        num_frames: Frames shown at the front of the window.
        decay: Weight of the old anchor, in ``[0, 1)``. Zero keeps only the newest evicted frames.

    Raises:
        ValueError: If ``decay`` is outside ``[0, 1)``.
    """

    def __init__(self, num_frames: int = 3, *, decay: float = 0.99) -> None:
        super().__init__(num_frames)
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}")
        self.decay = decay

    def absorb(self, contents: Contents, evicted: KV, retained: Sequence[KV]) -> Contents:
        """Fill the slots first, then fold the remaining frames in, oldest first."""
        del retained
        before = self.num_shown(contents)
        contents = fill(contents, evicted, self.num_frames, name="average")
        rest = evicted.frames(self.num_shown(contents) - before)
        if not rest.num_frames or not self.num_frames:
            return contents
        average = contents["average"]
        for start in range(0, rest.num_frames, self.num_frames):
            part = rest.frames(start, start + self.num_frames)
            slots = [
                (frame_index - average.frame_indices[0]) % self.num_frames
                for frame_index in part.frame_indices
            ]
            average = average.put(slots, average.take(slots).lerp(part, 1.0 - self.decay))
        return {"average": average}

    def read(self, contents: Contents, window_start: int) -> tuple[KV, ...]:
        """Show the average at the frame indices of the frames that began it."""
        del window_start
        return shown(contents, "average")
