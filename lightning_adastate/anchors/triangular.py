"""Triangular anchor: a bank of the first frames, read forwards and backwards in turn (Rolling Sink)."""

# Shapes: L layers, B batch, F frames, T tokens, N heads, D head dim.

from __future__ import annotations

from collections.abc import Sequence

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.anchors.static import fill
from lightning_adastate.types import KV, Contents


def triangular_index(position: int, bank_frames: int) -> int:
    """Return which bank frame stands at absolute frame index ``position``.

    0, 1, .., n-1, n-1, .., 1, 0, 0, 1, .. with period ``2 * bank_frames``.
    """
    phase = position % (2 * bank_frames)
    return phase if phase < bank_frames else 2 * bank_frames - 1 - phase


class TriangularAnchor(Anchor):
    """Put bank frames into the slots in front of the window, content by a triangular schedule.

    The bank holds the first frames of the stream as they were committed. The frame that would stand
    at absolute index p, had the window been longer, is replaced by bank frame ``triangular_index(p)``.
    Rolling Sink with budget A and chunks of L frames is ``num_frames = A - 2 L`` and
    ``bank_frames = A - L`` (code of Rolling-Sink 6eaed1e; a repeated noise belongs to it as well).

    Args:
        num_frames: Frames shown at the front of the window.
        bank_frames: Size of the bank, at least ``num_frames``.

    Raises:
        ValueError: If the bank is smaller than what is shown.
    """

    def __init__(self, num_frames: int = 15, *, bank_frames: int = 18) -> None:
        super().__init__(num_frames)
        if bank_frames < max(1, num_frames):
            raise ValueError(
                f"`bank_frames` must be at least `num_frames` {num_frames} and 1, got {bank_frames}"
            )
        self.bank_frames = bank_frames

    def absorb(self, contents: Contents, evicted: KV, retained: Sequence[KV]) -> Contents:
        """Fill the bank from the evicted frames, at the first eviction also from those that stay."""
        if not contents:
            evicted = KV.cat([evicted, *retained])
        have = contents.get("bank")
        if have is not None:
            new = [
                i
                for i, frame_index in enumerate(evicted.frame_indices)
                if frame_index > have.frame_indices[-1]
            ]
            if not new or have.num_frames >= self.bank_frames:
                return contents
            evicted = evicted.take(new)
        return fill(contents, evicted, self.bank_frames, name="bank")

    def read(self, contents: Contents, window_start: int) -> tuple[KV, ...]:
        """Show the bank frames of the ``num_frames`` indices before ``window_start``, at those indices."""
        bank = contents.get("bank")
        if bank is None or not self.num_frames:
            return ()
        origin = bank.frame_indices[0]
        frame_indices = range(window_start - self.num_shown(contents), window_start)
        index = [
            triangular_index(frame_index - origin, self.bank_frames)
            for frame_index in frame_indices
        ]
        return (bank.take([min(i, bank.num_frames - 1) for i in index], frame_indices),)

    def num_shown(self, contents: Contents) -> int:
        """Return ``num_frames`` once there is a bank."""
        return self.num_frames if contents else 0
