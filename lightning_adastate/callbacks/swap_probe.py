"""The swap probe while training: how the state becomes a memory, or does not."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer

from lightning_adastate.callbacks.periodic import PeriodicScores
from lightning_adastate.data import read_prompts
from lightning_adastate.evaluation.swap_probe import SwapProbe
from lightning_adastate.streaming.pipeline import PixelStreaming


class SwapProbeMetrics(PeriodicScores):
    """Swap anchor contents between streams and log how much is read, kept and taken from the window.

    ``swap/read``, ``swap/keep`` and ``swap/take`` are those of ``SwapReading`` in the first chunk after the swap,
    ``swap/keep_last`` is the share kept in the last. What is not a number is not logged.

    Args:
        prompts: A text file with one prompt per line, 3 or more; more are better.
        after_chunks: Chunks before the swap.
        num_chunks: Chunks after it.
        every_steps: Probe after every so many generator steps; ``None`` is at the end of every validation.
        seed: Of the noise.

    Raises:
        ValueError: If a number is too small, or there are fewer than 3 prompts.
    """

    prefix = "swap"

    def __init__(
        self,
        prompts: str,
        *,
        after_chunks: int = 8,
        num_chunks: int = 4,
        every_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(every_steps=every_steps)
        self.prompts = read_prompts(prompts)
        self.num_streams = len(self.prompts)
        self.probe = SwapProbe(after_chunks, num_chunks=num_chunks)
        self.probe.check(self.num_streams)
        self.seed = seed

    def scores(self, trainer: Trainer, module: PixelStreaming) -> dict[str, float]:
        """Return the shares that are numbers."""
        del trainer
        readings = self.probe.run(module, self.prompts, seed=self.seed).readings
        first, last = readings[0], readings[-1]
        found = {
            "read": first.read,
            "keep": first.keep,
            "take": first.take,
            "keep_last": last.keep,
        }
        return {name: value for name, value in found.items() if not math.isnan(value)}
