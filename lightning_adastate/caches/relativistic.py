"""Relativistic cache: time is counted inside the window (Infinity-RoPE, arXiv 2511.20649; AdaState)."""

from __future__ import annotations

from lightning_adastate.caches.base import Cache
from lightning_adastate.types import Event, LivePositions, Positions, WindowFrames


class RelativisticCache(Cache):
    """Index the window from zero in its order: anchor, live state, cached, live content.

    Once the window is full every chunk sees the same indices, so there is no horizon. With one state
    frame, three cached and three live frames these are 0 | 1 | 2 3 4 | 5 6 7 (AdaState).

    Args:
        window_frames: Cached plus live content frames; anchor and state come on top.
        budget_frames: The same with the anchor included. Give exactly one of both.
        compress_to: Once frames must go, keep only so many (Deep Forcing); ``None`` is no fewer than fit.
        history_frames: Evicted frames kept for passes that read further back (Rolling Forcing).
    """

    def positions(self, frames: WindowFrames, event: Event | None) -> Positions:
        """Return packed indices; a RoPE cut moves the live content alone."""
        sizes = (
            len(frames.anchor_frame_indices),
            frames.num_state_frames,
            len(frames.cached_frame_indices),
            len(frames.live_frame_indices),
        )
        parts: list[tuple[float, ...]] = []
        start = 0
        for size in sizes:
            parts.append(tuple(range(start, start + size)))
            start += size
        anchor, state, cached, live = parts
        if event is not None and event.live_start is not None:
            live = tuple(event.live_start + i for i in range(len(live)))
        both = (*state, *live)
        return Positions(anchor, cached, LivePositions(both, both))
