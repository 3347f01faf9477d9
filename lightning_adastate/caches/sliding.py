"""Sliding cache: every frame keeps its frame index (Self-Forcing, arXiv 2506.08009; LongLive)."""

from __future__ import annotations

from lightning_adastate.caches.base import Cache
from lightning_adastate.types import Event, LivePositions, Positions, WindowFrames


class SlidingCache(Cache):
    """Keep the newest frames at their absolute temporal index.

    Distances to an anchor's frames may grow without bound. Live state frames stand directly in front
    of the window.

    Args:
        window_frames: Cached plus live content frames; the anchor comes on top.
        budget_frames: The same with the anchor included. Give exactly one of both.
        compress_to: Once frames must go, keep only so many (Deep Forcing); ``None`` is no fewer than fit.
        history_frames: Evicted frames kept for passes that read further back (Rolling Forcing).
    """

    def positions(self, frames: WindowFrames, event: Event | None) -> Positions:
        """Return frame indices."""
        window_start = (*frames.cached_frame_indices, *frames.live_frame_indices)[0]
        state = tuple(range(window_start - frames.num_state_frames, window_start))
        live: tuple[float, ...] = frames.live_frame_indices
        if event is not None and event.live_start is not None:
            live = tuple(event.live_start + i for i in range(len(live)))
        both = (*state, *live)
        return Positions(
            frames.anchor_frame_indices, frames.cached_frame_indices, LivePositions(both, both)
        )
