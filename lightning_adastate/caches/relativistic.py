"""Relativistic cache: time is counted inside the window (Infinity-RoPE, arXiv 2511.20649; AdaState)."""

from __future__ import annotations

from typing import Any, Literal

from lightning_adastate.caches.base import Cache
from lightning_adastate.types import Event, LivePositions, Positions, WindowFrames


class RelativisticCache(Cache):
    """Index the window from zero in its order: anchor, live state, cached, live content.

    Once the window is full every chunk sees the same indices, so there is no horizon. With one state
    frame, three cached and three live frames these are 0 | 1 | 2 3 4 | 5 6 7 (AdaState).

    Args:
        queries: ``packed`` puts live queries where their keys stand. ``end`` leaves them at the end of the budget
            once the stream is as long, also when a flush has emptied the window, as the released Infinity-RoPE code
            does: queries then stand away from their own keys until it is full again. Parity only.
        **kwargs: Those of ``Cache``.

    Raises:
        ValueError: If ``queries`` is ``end`` without a budget.
    """

    def __init__(self, *, queries: Literal["packed", "end"] = "packed", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if queries == "end" and self.budget_frames is None:
            raise ValueError("`queries` end is counted from `budget_frames`; give that")
        self.queries: Literal["packed", "end"] = queries

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
        query = live
        if self.queries == "end" and (event is None or event.live_start is None):
            assert self.budget_frames is not None
            first = min(frames.live_frame_indices[0], self.budget_frames - len(live))
            query = tuple(first + i for i in range(len(live)))
        return Positions(anchor, cached, LivePositions((*state, *query), (*state, *live)))
