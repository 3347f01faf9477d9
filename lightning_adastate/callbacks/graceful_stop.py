"""A stop that loses nothing: on SIGTERM or Ctrl-C the run is saved at the next whole step."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_adastate.callbacks.lightning_internals import stop_now

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class GracefulStop(Callback):
    """Save at the next whole optimiser step after SIGTERM or Ctrl-C, and end the run.

    The checkpoint resumes in the middle of the epoch. A second signal does what it does without us. All
    ranks stop at the same batch, whichever of them got the signal.

    Args:
        filename: Name of the checkpoint.
        folder: Where to write it; ``None`` is the folder of the first ``ModelCheckpoint``, else the
            trainer's ``default_root_dir``.

    ``stopped_by`` is the signal after which the last fit was stopped; ``None`` if it was not.

    Raises:
        ValueError: If the name is no ``.ckpt``.
    """

    def __init__(self, filename: str = "stopped.ckpt", *, folder: str | None = None) -> None:
        super().__init__()
        if not filename.endswith(".ckpt"):
            raise ValueError(f"`filename` must end in .ckpt, got {filename!r}")
        self.filename = filename
        self.folder = folder
        self.stopped_by: signal.Signals | None = None
        self._asked: signal.Signals | None = None
        self._waiting = False
        self._before: dict[int, signal._HANDLER] = {}
        self._silenced: list[tuple[ModelCheckpoint, int, bool | Literal["link"] | None]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, in place of Lightning, which would raise in the middle of a step."""
        del trainer, pl_module
        self._asked = self.stopped_by = None
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._ask)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Save and stop if anyone was asked to and no gradient is waiting for more batches."""
        del outputs, batch, batch_idx
        asked = self._asked is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if not asked or not getattr(pl_module, "at_whole_step", True) or trainer.should_stop:
            return
        trainer.limit_val_batches = 0  # a killed run has no time for it
        if trainer.is_last_batch:
            # Lightning counts an epoch too many when it resumes from an epoch's last batch.
            self._waiting = True
        else:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and stop if that had to wait for the epoch's end."""
        del pl_module
        if self._waiting:
            self._waiting = False
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        del trainer, pl_module
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        del trainer, pl_module, exception
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the other checkpoints be saved again: the trainer may go on."""
        del trainer, pl_module, stage
        for callback, save_top_k, save_last in self._silenced:
            callback.save_top_k, callback.save_last = save_top_k, save_last
        self._silenced = []

    def path(self, trainer: Trainer) -> Path:
        """Return where the checkpoint goes."""
        folder = self.folder
        if folder is None and trainer.checkpoint_callback is not None:
            folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        return Path(folder if folder is not None else trainer.default_root_dir) / self.filename

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._asked = signal.Signals(number)
        self._restore()
        log.warning("%s: saving at the next whole step, then stopping", self._asked.name)

    def _restore(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}

    def _stop(self, trainer: Trainer) -> None:
        path = self.path(trainer)
        self.stopped_by = self._asked or signal.SIGTERM  # another rank was asked
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            log.warning(
                "stopped after generator step %d; resume with --ckpt_path %s",
                trainer.global_step,
                path,
            )
        # Whatever else would be saved on the way out looks like the end of an epoch and resumes wrongly.
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                self._silenced.append((callback, callback.save_top_k, callback.save_last))
                callback.save_top_k, callback.save_last = 0, False
        stop_now(trainer)


def graceful_stops(trainer: Trainer) -> list[GracefulStop]:
    """Return the callbacks of a trainer that stop it; a fit with one of our modules has one."""
    return [each for each in trainer.callbacks if isinstance(each, GracefulStop)]  # type: ignore[attr-defined]


def stopped_by(trainer: Trainer) -> signal.Signals | None:
    """Return the signal after which a trainer's last fit was saved and stopped; ``None`` if it was not."""
    signals = (stop.stopped_by for stop in graceful_stops(trainer))
    return next((each for each in signals if each is not None), None)
