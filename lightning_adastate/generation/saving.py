"""When the state of a running stream is saved."""

from __future__ import annotations

import time
from typing import Literal

from lightning_adastate.types import StreamState

AUTO_SHARE = 0.01
"""Of a stream's time, what saving its state may take with ``auto``."""

SLOW_DISK = 1e8
"""Bytes per second, for what has not been measured yet: how much longer a state takes that has grown."""


class SavePolicy:
    """Say when to save.

    Args:
        every: Chunks between two saves. ``auto``: as soon as all saves together, the next one included, have taken
            less than one hundredth of the time since the beginning.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, every: int | Literal["auto"] = "auto") -> None:
        if every != "auto" and every < 1:
            raise ValueError(f"`state_every` must be 1 or more chunks, or auto, got {every}")
        self.every = every
        self.begun = time.monotonic()
        self.spent = 0.0
        self._chunks = 0
        self._last_seconds = 0.0
        self._last_bytes = 0

    def is_due(self, state: StreamState) -> bool:
        """Whether the state after one more chunk is to be saved."""
        self._chunks += 1
        if self.every != "auto":
            return self._chunks >= self.every
        larger = max(0, num_bytes(state) - self._last_bytes)  # than the one saved last
        coming = self._last_seconds + larger / SLOW_DISK
        return self.spent + coming < AUTO_SHARE * (time.monotonic() - self.begun)

    def took(self, seconds: float, state: StreamState) -> None:
        """Note what a save has cost."""
        self.spent += seconds
        self._last_seconds, self._last_bytes = seconds, num_bytes(state)
        self._chunks = 0


def num_bytes(state: StreamState) -> int:
    """Return about how large a state is on the disk; it grows while the window fills."""
    held = (*state.blocks, *state.history, *state.anchor.values())
    kept = sum(part.nbytes for kv in held for part in (kv.key_LBFTND, kv.value_LBFTND))
    return kept + state.texts_PBSD.nbytes + sum(part.nbytes for part in state.codec.values())
