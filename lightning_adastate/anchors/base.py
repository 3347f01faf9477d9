"""The contract of an anchor: what stands in front of the window."""

# Shapes: L layers, B batch, F frames, T tokens, N heads, D head dim.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from lightning_adastate.components import Component
from lightning_adastate.types import KV, Committed, Contents, Event


class Anchor(Component, nn.Module, ABC):
    """Decide what the live frames see in front of the cached window.

    An anchor sees the frames that leave the window (``absorb``) and those that were just committed
    (``commit``), and returns its new contents. It holds no stream state itself: contents go in and
    come out, and no tensor in them is ever written in place. Trainable parameters are allowed and
    join the generator's optimiser.

    Args:
        num_frames: Frames it shows when full. Zero is no anchor.

    Raises:
        ValueError: If ``num_frames`` is negative.
    """

    num_frames: int

    num_state_frames: int = 0
    """Hidden frames denoised together with each chunk once the anchor has begun (AdaState's F_s)."""

    needs_query: bool = False
    """Whether ``commit`` wants the queries of the clean pass (anchors that select by attention)."""

    def __init__(self, num_frames: int) -> None:
        super().__init__()
        if num_frames < 0:
            raise ValueError(f"`num_frames` must be 0 or more, got {num_frames}")
        self.num_frames = num_frames

    def empty(self) -> Contents:
        """Return the contents of an anchor that has not begun."""
        return {}

    @abstractmethod
    def absorb(self, contents: Contents, evicted: KV, retained: Sequence[KV]) -> Contents:
        """Return the contents after ``evicted`` left the window, oldest frame first.

        Args:
            contents: Present contents; empty at the first eviction of a stream.
            evicted: Frames that just left, ``[L, B, F, T, N, D]``; F may be any positive number.
            retained: Blocks that stay in the window behind them, oldest first; may be empty.
        """

    def commit(self, contents: Contents, committed: Committed) -> Contents:
        """Return the contents after a chunk's clean pass. The default changes nothing."""
        del committed
        return contents

    @abstractmethod
    def read(self, contents: Contents, window_start: int) -> tuple[KV, ...]:
        """Return what it shows in this chunk, part by part; nothing is ``()``.

        It may show fewer than ``num_frames`` at first. The frame_indices of what it returns are the
        temporal indices it has under absolute positions. Frames may have fewer tokens than live ones
        if their ``KV.places`` say where they stand.

        Args:
            contents: Present contents.
            window_start: Frame index of the oldest frame behind the anchor (cached, else live).
        """

    def on_event(self, contents: Contents, event: Event) -> Contents:
        """Return the contents after an event; a re-base empties them, anything else keeps them."""
        return self.empty() if event.reset_anchor else contents

    def num_shown(self, contents: Contents) -> int:
        """Return how many frames ``read`` will show."""
        return sum(kv.num_frames for kv in contents.values())

    def num_claimed(self, contents: Contents, num_evicted: int) -> int:
        """Return how many of the oldest evicted frames it keeps for itself.

        In a composition, anchors behind it do not see them. The default is none: it looks, and lets pass.
        """
        del contents, num_evicted
        return 0

    def num_live_frames(self, contents: Contents) -> int:
        """Return how many hidden frames are denoised with the coming chunk."""
        return self.num_state_frames if contents else 0
