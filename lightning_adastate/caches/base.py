"""The contract of a cache: which content frames stay, and where everything stands in time."""

# Shapes: L layers, B batch, F frames, T tokens, N heads, D head dim.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lightning_adastate.components import Component
from lightning_adastate.types import KV, Event, Eviction, Positions, WindowFrames


class Cache(Component, ABC):
    """Pure policy over the cached content. It owns no tensors.

    A window is counted in one of two ways; exactly one is given. Both count the live chunk's content.

    Args:
        window_frames: Cached plus live content frames; anchor and state frames come on top (AdaState).
        budget_frames: The same with the anchor included (``local_attn_size`` everywhere else).
        compress_to: Once frames must go, keep only so many of either count: the window becomes a
            saw-tooth (Deep Forcing: 16 of 21). ``None`` evicts no more than must go.
        history_frames: Evicted frames kept for passes that read further back than the window.

    Raises:
        ValueError: If not exactly one of both is given, it is not positive, or the others do not fit it.
    """

    window_frames: int | None
    budget_frames: int | None
    compress_to: int | None
    history_frames: int

    def __init__(
        self,
        *,
        window_frames: int | None = None,
        budget_frames: int | None = None,
        compress_to: int | None = None,
        history_frames: int = 0,
    ) -> None:
        given = {"window_frames": window_frames, "budget_frames": budget_frames}
        counts = {name: value for name, value in given.items() if value is not None}
        if len(counts) != 1:
            remedy = (
                "; to replace one by the other, set that to null, as --model.cache.budget_frames=null"
                if counts
                else ""
            )
            raise ValueError(
                "give exactly one of `window_frames` (cached + live content, as AdaState counts) and "
                f"`budget_frames` (anchor included, as everyone else counts), got {given}{remedy}"
            )
        ((name, value),) = counts.items()
        if value < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {value}")
        if compress_to is not None and not 1 <= compress_to <= value:
            raise ValueError(
                f"`compress_to` must be 1 or more and at most `{name}` {value}, got {compress_to}"
            )
        if history_frames < 0:
            raise ValueError(f"`history_frames` must be 0 or more, got {history_frames}")
        self.window_frames = window_frames
        self.budget_frames = budget_frames
        self.compress_to = compress_to
        self.history_frames = history_frames

    @property
    def max_frames(self) -> int:
        """Return the window's size as it was given."""
        return self.window_frames or self.budget_frames or 0

    def capacity(self, *, num_new: int, anchor_frames: int) -> int:
        """Return how many content frames may stay beside ``num_new`` live ones.

        Args:
            num_new: Content frames of the chunk to come.
            anchor_frames: Frames the anchor takes from a budget.
        """
        if self.window_frames is not None:
            return self.window_frames - num_new
        assert self.budget_frames is not None
        return self.budget_frames - anchor_frames - num_new

    def check(self, *, chunk_frames: int, anchor_frames: int) -> None:
        """Refuse a window too small for anchor and chunk.

        Raises:
            ValueError: Naming the numbers and the smallest window that works.
        """
        fixed = 0 if self.budget_frames is None else anchor_frames
        if self.compress_to is not None and self.compress_to < fixed + chunk_frames:
            raise ValueError(
                f"`compress_to` {self.compress_to} cannot hold an anchor of {fixed} and a chunk of "
                f"{chunk_frames} frames; use {fixed + chunk_frames} or more"
            )
        if self.capacity(num_new=chunk_frames, anchor_frames=anchor_frames) >= 0:
            return
        if self.window_frames is not None:
            raise ValueError(
                f"`window_frames` {self.window_frames} is smaller than a chunk of {chunk_frames} "
                f"frames; use {chunk_frames} or more"
            )
        raise ValueError(
            f"`budget_frames` {self.budget_frames} cannot hold an anchor of {anchor_frames} and a "
            f"chunk of {chunk_frames} frames; use {anchor_frames + chunk_frames} or more"
        )

    def make_room(
        self, blocks: Sequence[KV], *, num_new: int, anchor_shown: int, anchor_full: int
    ) -> Eviction:
        """Evict the oldest frames if the chunk to come would not fit. Called once per chunk.

        Nothing is evicted while everything fits beside what the anchor shows now. Once something
        must go, room is made for the full anchor.

        Args:
            blocks: Cached content, oldest first.
            num_new: Content frames of the chunk to come.
            anchor_shown: Frames the anchor shows now.
            anchor_full: Frames it shows when full.
        """
        cached = count_frames(blocks)
        if cached <= self.capacity(num_new=num_new, anchor_frames=anchor_shown):
            return Eviction(tuple(blocks), None)
        keep = max(0, self.capacity(num_new=num_new, anchor_frames=anchor_full))
        if self.compress_to is not None:
            keep -= self.max_frames - self.compress_to
            keep = max(0, keep)
        return split_oldest(blocks, cached - keep)

    @abstractmethod
    def positions(self, frames: WindowFrames, event: Event | None) -> Positions:
        """Return the temporal index of every part of the window.

        Any constant may be added to all of them: only differences matter. They are plain Python
        numbers, so no index is too large.
        """


def count_frames(blocks: Sequence[KV]) -> int:
    """Count the frames of all blocks."""
    return sum(block.num_frames for block in blocks)


def split_oldest(blocks: Sequence[KV], num_frames: int) -> Eviction:
    """Split off the ``num_frames`` oldest frames, cutting a block in two if need be."""
    if num_frames <= 0:
        return Eviction(tuple(blocks), None)
    gone: list[KV] = []
    retained: list[KV] = []
    left = num_frames
    for block in blocks:
        part = min(left, block.num_frames)
        left -= part
        if part:
            gone.append(block.frames(0, part))
        if part < block.num_frames:
            retained.append(block.frames(part))
    return Eviction(tuple(retained), KV.cat(gone) if gone else None)
