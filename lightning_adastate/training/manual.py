"""What modules with manual optimisation share: a batch counter, whole steps, seeds, resuming."""

# Shapes: B batch, F frames, C channels, H W height / width.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adastate.anchors import Anchor
from lightning_adastate.backbones import Backbone
from lightning_adastate.caches import Cache
from lightning_adastate.codecs import Codec
from lightning_adastate.noise import NoiseSource
from lightning_adastate.schedules import Schedule
from lightning_adastate.text import TextEncoder
from lightning_adastate.training.base import StreamModule
from lightning_adastate.training.optimization import Optimization
from lightning_adastate.training.randomness import generator_of
from lightning_adastate.training.sharding import full_tensor
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
        anchor: What stands in front of the window.
        cache: Which frames stay, and all temporal indices.
        schedule: Chunk size and passes.
        codec: Latents to pixels and back; frozen.
        text_encoder: Prompts to embeddings; frozen.
        optimization: How the generator is optimised.
        accumulate: Batches per optimiser step.
        seed: Of everything drawn in training.
        noise: Source of the stream's noise; ``None`` is ``CounterNoise``.
        frame_size: Height and width of the video in pixels.
        weights: File to initialise the backbone from: a path, or a name shipped with the package.
        ema_decay: Keep an average of the generator with this decay; ``None`` keeps none.

    Raises:
        ValueError: If ``accumulate`` is less than 1.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        anchor: Anchor,
        cache: Cache,
        schedule: Schedule,
        codec: Codec,
        text_encoder: TextEncoder,
        optimization: Optimization,
        accumulate: int,
        seed: int,
        noise: NoiseSource | None,
        frame_size: tuple[int, int],
        weights: str | None,
        ema_decay: float | None,
    ) -> None:
        super().__init__(
            backbone,
            anchor=anchor,
            cache=cache,
            schedule=schedule,
            codec=codec,
            text_encoder=text_encoder,
            noise=noise,
            frame_size=frame_size,
            weights=weights,
            ema_decay=ema_decay,
        )
        check_least("accumulate", accumulate, 1)
        self.automatic_optimization = False
        self.optimization = optimization
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
        norm = self.optimization.prepare(optimizer.optimizer, self.global_step)
        optimizer.step()
        optimizer.zero_grad()
        self.update_average()
        return norm

    def plain_optimizer(self, index: int) -> Optimizer:
        """Return one of several optimisers as torch's own: stepping it does not move ``global_step``."""
        optimizers = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizers, list)
        optimizer = optimizers[index]
        assert isinstance(optimizer, Optimizer)
        return optimizer

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
        """Load the batch counter and gradients."""
        super().on_load_checkpoint(checkpoint)
        seen, gradients = checkpoint.get("batches_seen", 0), checkpoint.get("gradients", {})
        assert isinstance(seen, int)
        assert isinstance(gradients, dict)
        self.batches_seen = seen
        self._gradients = gradients
