"""Adaptive anchor: a hidden state denoised with every chunk and never rendered (AdaState, arXiv 2605.30349)."""

# Shapes: L layers, B batch, F frames, T tokens, N heads, D head dim.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.types import KV, Committed, Contents


class AdaptiveAnchor(Anchor):
    """Let the model generate its own scene reference.

    Nothing happens before the first eviction. Then the first frames of the stream play the previous
    state; from there on each chunk denoises ``num_frames`` state frames beside its content (Eq. 2),
    reading the previous state in front of the window, and their clean keys and values replace it
    (Eq. 3). The state adds no parameter and gets no loss of its own.

    Args:
        num_frames: State frames, F_s in the paper. As many clean ones stand in front of the window.

    Raises:
        ValueError: If there is no state frame.
    """

    def __init__(self, num_frames: int = 1) -> None:
        super().__init__(num_frames)
        if num_frames < 1:
            raise ValueError(
                f"`num_frames` must be 1 or more for AdaptiveAnchor, got {num_frames}; "
                "no anchor is StaticAnchor with `num_frames` 0"
            )
        self.num_state_frames = num_frames

    def absorb(self, contents: Contents, evicted: KV, retained: Sequence[KV]) -> Contents:
        """Begin with the first frames of the stream; later evictions change nothing.

        If fewer than ``num_frames`` were evicted, the oldest frames that stay supply the rest.
        """
        if contents:
            return contents
        if evicted.num_frames < self.num_frames:
            evicted = KV.cat([evicted, *retained])
        return {"state": evicted.frames(0, self.num_frames)}

    def commit(self, contents: Contents, committed: Committed) -> Contents:
        """Replace the state by the one just denoised."""
        return contents if committed.state is None else {"state": committed.state}

    def read(self, contents: Contents, window_start: int) -> tuple[KV, ...]:
        """Show the previous state, as if it stood before the live state and the window."""
        state = contents.get("state")
        if state is None:
            return ()
        first = window_start - state.num_frames - self.num_state_frames
        return (replace(state, frame_indices=tuple(range(first, first + state.num_frames))),)

    def num_claimed(self, contents: Contents, num_evicted: int) -> int:
        """Claim the frames that play the first state."""
        return 0 if contents else min(num_evicted, self.num_frames)
