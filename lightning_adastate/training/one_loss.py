"""What the stages with one network in training and one loss share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.training.manual import ManualModule
from lightning_adastate.training.optimization import build_optimizer
from lightning_adastate.training.randomness import fold_seed, generator_of
from lightning_adastate.types import VideoBatch


class Draws(NamedTuple):
    """Where one batch's random numbers come from.

    Args:
        rank_rng: Different on every rank.
        global_rng: The same on all ranks.
        stream: Seed for streams.
    """

    rank_rng: torch.Generator
    global_rng: torch.Generator
    stream: int


class OneLoss(ManualModule, ABC):
    """Back-propagate one loss, step, and score the same loss on noise that never changes."""

    @abstractmethod
    def errors(self, streamer: Streamer, batch: VideoBatch, draws: Draws) -> dict[str, Tensor]:
        """Return scalars to log; the one named ``loss`` is minimised.

        Args:
            streamer: Its network is evaluated.
            batch: Of the data module.
            draws: Where random numbers come from.
        """

    def training_step(self, batch: VideoBatch, batch_idx: int) -> None:
        """Back-propagate one batch, and step if the optimiser step is whole."""
        del batch_idx
        errors = self.errors(self.generator, batch, self.draws_of(self.batches_seen, "training"))
        self.manual_backward(errors["loss"] / self.accumulate)
        if self.completes_step:
            self.log("train/grad_norm", self.step_generator())
        self.log_dict({f"train/{n}": value.detach() for n, value in errors.items()}, prog_bar=True)
        self.log_step()
        self.batches_seen += 1

    def scores(self, batch: VideoBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return the same scalars of what streams, on noise that never changes."""
        return self.errors(self.streamer, batch, self.draws_of(batch_idx, "validation"))

    def draws_of(self, batch: int, phase: str) -> Draws:
        """Return where the random numbers of a batch come from."""
        key = (self.seed, batch, phase)
        return Draws(
            generator_of(*key, self.global_rank), generator_of(*key, "all"), fold_seed(*key)
        )

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Return what is optimised: the backbone, and anchors that have parameters."""
        return list(self.generator.parameters())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimiser of the trained parameters, and its schedule."""
        return build_optimizer(
            self.trained_parameters(), self.build_optimizer, self.build_lr_scheduler
        )
