"""What modules with manual optimisation share: a batch counter, whole steps, seeds, resuming."""

# Shapes: B batch, F frames, C channels, H W height / width.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_adastate.backbones import Backbone
from lightning_adastate.training.base import StreamModule
from lightning_adastate.training.finite import check_gradients
from lightning_adastate.training.optimization import (
    clip_gradients,
    gradient_norm,
    parameters_of,
)
from lightning_adastate.training.randomness import generator_of
from lightning_adastate.training.sharding import full_tensor
from lightning_adastate.training.trainers import scaler_of, trainer_of
from lightning_adastate.types import VideoBatch
from lightning_adastate.weights.loading import fill_tensor


def check_least(name: str, value: int, least: int) -> None:
    """Refuse an option that is too small.

    Raises:
        ValueError: Naming it.
    """
    if value < least:
        raise ValueError(f"`{name}` must be {least} or more, got {value}")


class ManualModule(StreamModule, ABC):
    """Count batches, make whole optimiser steps of them, and resume exactly.

    Args:
        backbone: Predicts velocity.
        optimizer: Makes the optimiser of what is trained: any of ``torch.optim``, by its name.
        lr_scheduler: Makes its learning rate over optimiser steps: ``WarmupDecay``, or any of
            ``torch.optim.lr_scheduler`` that needs no metric; ``None`` keeps it.
        clip_norm: Largest norm of a network's whole gradient; ``None`` does not clip.
        accumulate: Batches per optimiser step.
        seed: Of everything drawn in training.
        **kwargs: Those of ``StreamModule``.

    Raises:
        ValueError: If ``accumulate`` is less than 1, or ``clip_norm`` is not positive.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        clip_norm: float | None = 10.0,
        accumulate: int = 1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        check_least("accumulate", accumulate, 1)
        if clip_norm is not None and clip_norm <= 0.0:
            raise ValueError(f"`clip_norm` must be positive or null, got {clip_norm}")
        self.automatic_optimization = False
        self.build_optimizer = optimizer
        self.build_lr_scheduler = lr_scheduler
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self.seed = seed
        self.batches_seen = 0
        self._gradients: dict[str, Tensor] = {}

    # -- whole steps ----------------------------------------------------------------------------

    @property
    def at_whole_step(self) -> bool:
        """Whether no gradient is waiting for more batches: the moment to stop and to save."""
        return self.batches_seen % self.accumulate == 0

    @property
    def completes_step(self) -> bool:
        """Whether the batch in hand is the last of its optimiser step."""
        return (self.batches_seen + 1) % self.accumulate == 0

    @property
    def busiest_batches(self) -> Sequence[int]:
        """Name batches that together take the most memory, each the last of its optimiser step."""
        return [self.accumulate - 1]

    def step_generator(self) -> Tensor:
        """Step the generator and its average; return the gradient's norm. Moves ``global_step``."""
        optimizer = self.optimizers()
        if isinstance(optimizer, list):
            optimizer = optimizer[0]
        norm = self.clip(optimizer.optimizer)
        optimizer.step()
        optimizer.zero_grad()
        self.step_schedule(0)
        self.update_average()
        return norm

    def clip(self, optimizer: Optimizer) -> Tensor:
        """Clip an optimiser's gradients; return their norm before.

        Raises:
            NonFiniteError: If it is not finite.
        """
        norm = gradient_norm(optimizer)
        whole = full_tensor(norm)
        check_gradients(self, whole, parameters_of(optimizer))
        clip_gradients(optimizer, self.clip_norm, norm)
        return whole

    def step_schedule(self, index: int) -> None:
        """Move the learning rate of one of several optimisers on. Lightning leaves that to us."""
        schedules = self.lr_schedulers()
        schedule = schedules[index] if isinstance(schedules, list) else schedules
        assert isinstance(schedule, LRScheduler)
        schedule.step()

    def plain_optimizer(self, index: int) -> Optimizer:
        """Return one of several optimisers as torch's own: stepping it does not move ``global_step``."""
        optimizers = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizers, list)
        optimizer = optimizers[index]
        assert isinstance(optimizer, Optimizer)
        return optimizer

    def on_fit_start(self) -> None:
        """Refuse 16-bit mixed precision, whose scaled gradients nobody unscales where a stage steps by itself.

        Raises:
            ValueError: Naming what to take instead.
        """
        if scaler_of(self) is not None:
            raise ValueError(
                "`trainer.precision` 16-mixed scales gradients, and our stages step by themselves; use bf16-mixed"
            )

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Put back the gradients a checkpoint held."""
        del batch, batch_idx
        if self._gradients:
            for name, parameter in self.named_parameters():
                if name in self._gradients:
                    parameter.grad = torch.zeros_like(parameter)
                    fill_tensor(parameter.grad, self._gradients[name])
            self._gradients = {}

    # -- scores ---------------------------------------------------------------------------------

    @abstractmethod
    def scores(self, batch: VideoBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return scalars of what will be used for streaming, on noise that never changes."""

    def validation_step(self, batch: VideoBatch, batch_idx: int) -> None:
        """Log the scores."""
        self._log_scores("val", batch, batch_idx)

    def test_step(self, batch: VideoBatch, batch_idx: int) -> None:
        """Log the scores."""
        self._log_scores("test", batch, batch_idx)

    def _log_scores(self, stage: str, batch: VideoBatch, batch_idx: int) -> None:
        logs = {f"{stage}/{n}": value for n, value in self.scores(batch, batch_idx).items()}
        self.log_dict(logs, batch_size=len(batch["prompts"]), sync_dist=True)

    def on_validation_model_zero_grad(self) -> None:
        """Keep gradients: validation may come between the batches of one optimiser step."""

    # -- randomness -----------------------------------------------------------------------------

    def generator_for(self, phase: str, *, all_ranks_alike: bool = False) -> torch.Generator:
        """Return the generator of one purpose in the batch in hand, different on every rank or not."""
        rank = "all" if all_ranks_alike else str(self.global_rank)
        return generator_of(self.seed, self.batches_seen, rank, phase)

    def log_step(self) -> None:
        """Log with ``global_step`` as the x axis; without this it would be batches."""
        self.log("step", float(self.global_step))

    # -- checkpoints ----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Save the batch counter and, within an optimiser step, the gradients so far."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["batches_seen"] = self.batches_seen
        if not self.at_whole_step:
            checkpoint["gradients"] = {
                name: full_tensor(parameter.grad.detach()).clone()
                for name, parameter in self.named_parameters()
                if parameter.grad is not None
            }

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Load the batch counter and gradients.

        Raises:
            ValueError: If it is to be trained on without the place in its learning rates.
        """
        super().on_load_checkpoint(checkpoint)
        trainer = trainer_of(self)
        training = trainer is not None and trainer.training
        if training and checkpoint.get("optimizer_states") and not checkpoint.get("lr_schedulers"):
            raise ValueError(
                "the checkpoint holds no place in its learning rates, which would begin again: it is of an "
                "older version; take its generator alone with `model.weights`"
            )
        seen, gradients = checkpoint.get("batches_seen", 0), checkpoint.get("gradients", {})
        assert isinstance(seen, int)
        assert isinstance(gradients, dict)
        self.batches_seen = seen
        self._gradients = gradients
