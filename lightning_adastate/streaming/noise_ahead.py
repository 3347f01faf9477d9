"""Noise of the next chunk, drawn in a thread while this one is denoised."""

# Shapes: B batch (streams), F frames, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from torch import Tensor

from lightning_adastate.noise import NoiseKey, NoiseSource

MOST_WAITING = 64
"""Draws that wait to be asked for; one that nobody asks for is dropped."""


class _Request(NamedTuple):
    source: NoiseSource
    key: NoiseKey
    seed: int
    stream_ids: tuple[int, ...]
    shape_FCHW: tuple[int, ...]

    def draw(self, *, pinned: bool) -> Tensor:
        drawn = self.source.draw(
            self.key, seed=self.seed, stream_ids=self.stream_ids, shape_FCHW=self.shape_FCHW
        )
        return drawn.pin_memory() if pinned else drawn


class NoiseAhead:
    """Draw what a source would, to the last bit, and begin the same draw of the next chunk.

    Noise is a pure function of what it is for, so it may be drawn at any time; what was not foreseen is drawn when it
    is asked for.

    Args:
        pinned: Draw into pinned memory, from which a card copies without waiting.
    """

    def __init__(self, *, pinned: bool) -> None:
        self.pinned = pinned
        self.thread = ThreadPoolExecutor(1, "noise")
        self.waiting: dict[_Request, Future[Tensor]] = {}

    def draw(
        self,
        source: NoiseSource,
        key: NoiseKey,
        *,
        seed: int,
        stream_ids: Sequence[int],
        shape_FCHW: tuple[int, ...],
    ) -> Tensor:
        """Return ``[B, F, C, H, W]``; see ``NoiseSource.draw``."""
        request = _Request(source, key, seed, tuple(stream_ids), shape_FCHW)
        drawn = self.waiting.pop(request, None)
        coming = request._replace(key=key._replace(chunk=key.chunk + 1))
        if coming not in self.waiting:
            self.waiting[coming] = self.thread.submit(coming.draw, pinned=self.pinned)
        while len(self.waiting) > MOST_WAITING:
            self.waiting.pop(next(iter(self.waiting))).cancel()
        return request.draw(pinned=self.pinned) if drawn is None else drawn.result()
