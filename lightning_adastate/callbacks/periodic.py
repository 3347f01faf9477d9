"""Scores that a callback makes now and then while training, without a trace in the training."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_adastate.callbacks.exact_resume import random_state, restore_random_state
from lightning_adastate.streaming.pipeline import PixelStreaming, evaluating


class PeriodicScores(Callback, ABC):
    """Score what `generate` would use at the end of every validation, or after every so many generator steps.

    That is the average of the weights where there is one. Nothing of the training changes: random states,
    modes and gradients are as they were, and a run with this callback ends bit for bit where one without it does.

    Args:
        every_steps: Score after every so many generator steps, in training; ``None`` is at the end of every
            validation.

    Raises:
        ValueError: If it is below 1.
    """

    prefix: str
    """What the logged names begin with."""

    num_streams: int
    """Streams that are scored."""

    def __init__(self, *, every_steps: int | None = None) -> None:
        super().__init__()
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"`every_steps` must be 1 or more, got {every_steps}")
        self.every_steps = every_steps
        self.last_step = 0

    @abstractmethod
    def scores(self, trainer: Trainer, module: PixelStreaming) -> dict[str, float]:
        """Return what is to be logged, by name."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score at the end of a validation."""
        if self.every_steps is None and not trainer.sanity_checking:
            pl_module.log_dict(self._named(trainer, pl_module), batch_size=self.num_streams)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Score once after the generator steps that are due; a critic's batch is none."""
        del outputs, batch, batch_idx
        step = trainer.global_step
        if self.every_steps is None or step == self.last_step:
            return
        self.last_step = step
        if step % self.every_steps:
            return
        scores = self._named(trainer, pl_module)
        pl_module.log_dict(scores, logger=False, batch_size=self.num_streams)
        # Lightning would drop them unless this happened to be one of every `log_every_n_steps` batches.
        for logger in trainer.loggers:
            logger.log_metrics(scores, step=step)

    def state_dict(self) -> dict[str, int]:
        """Return the last generator step that was seen, so that a resumed run scores when it would have."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Load it."""
        self.last_step = state_dict["last_step"]

    def _named(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        assert isinstance(pl_module, PixelStreaming)
        with _undisturbed(trainer, pl_module):
            scores = self.scores(trainer, pl_module)
        return {f"{self.prefix}/{name}": value for name, value in scores.items()}


@contextlib.contextmanager
def _undisturbed(trainer: Trainer, module: PixelStreaming) -> Iterator[None]:
    """Run as streaming runs (precision, evaluation mode), and leave everything as it was."""
    before = random_state()
    try:
        with evaluating(module.streamer), trainer.precision_plugin.forward_context():
            yield
    finally:
        restore_random_state(before)
