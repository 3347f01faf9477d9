"""Pooled memory: one running mean over all tokens that ever left the window (MemRoPE)."""

# Shapes: L layers, B batch, F frames, T tokens, N heads, D head dim.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.anchors.static import shown
from lightning_adastate.types import KV, Contents


class PooledEMAAnchor(Anchor):
    """Average the mean token of every eviction into one memory, before any rotary embedding.

    The mean is over all frames and tokens that left, one vector per layer and head, and stands at every
    token of the memory's frames: copies differ by their spatial rotation alone, and weigh as much in the
    softmax as a frame does, so a single token would not be the same.

    Args:
        num_frames: Frames of memory shown.
        decay: Weight of the old memory, in ``[0, 1)``: one minus the rate that MemRoPE names (long 0.01,
            short 0.1).
        first_frames: Begin with only the newest so many of the frames that leave first; ``None`` begins
            with all. MemRoPE's code begins with 3 and so loses two frames; parity only.

    Raises:
        ValueError: If ``decay`` is outside ``[0, 1)``, or ``first_frames`` is not positive.
    """

    def __init__(
        self,
        num_frames: int = 1,
        *,
        decay: float = 0.99,
        first_frames: int | None = None,
    ) -> None:
        super().__init__(num_frames)
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}")
        if first_frames is not None and first_frames < 1:
            raise ValueError(f"`first_frames` must be 1 or more, got {first_frames}")
        self.decay = decay
        self.first_frames = first_frames

    def absorb(self, contents: Contents, evicted: KV, retained: Sequence[KV]) -> Contents:
        """Begin with the mean of the first eviction, then move towards that of each later one."""
        del retained
        if not self.num_frames:
            return contents
        if "memory" in contents:
            return {"memory": contents["memory"].lerp(self._pool(evicted), 1.0 - self.decay)}
        if self.first_frames is not None:
            evicted = evicted.frames(max(0, evicted.num_frames - self.first_frames))
        return {"memory": self._pool(evicted)}

    def read(self, contents: Contents, window_start: int) -> tuple[KV, ...]:
        """Show the memory directly in front of the window."""
        frame_indices = tuple(range(window_start - self.num_frames, window_start))
        return tuple(replace(kv, frame_indices=frame_indices) for kv in shown(contents, "memory"))

    def num_shown(self, contents: Contents) -> int:
        """Return ``num_frames`` once there is a memory."""
        return self.num_frames if "memory" in contents else 0

    def _pool(self, frames: KV) -> KV:
        """Return the mean token, at every token of ``num_frames`` frames."""
        first = frames.take([0] * self.num_frames)
        shape = first.key_LBFTND.shape
        return replace(
            first,
            key_LBFTND=frames.key_LBFTND.mean(dim=(2, 3), keepdim=True).expand(shape),
            value_LBFTND=frames.value_LBFTND.mean(dim=(2, 3), keepdim=True).expand(shape),
        )
