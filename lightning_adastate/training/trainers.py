"""What a module asks of the trainer it is attached to; the one place in training that touches Lightning's private parts."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy


def trainer_of(module: LightningModule) -> Trainer | None:
    """Return the trainer of a module, or ``None`` where it streams or is tested without one."""
    try:
        return module.trainer
    except RuntimeError:  # Lightning's way to say that there is none
        return None


def last_checkpoint(trainer: Trainer) -> Path | None:
    """Return the newest file that the trainer's checkpoint callbacks keep; ``None`` if there is none yet."""
    paths = [
        Path(path)
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
        for path in (callback.last_model_path, callback.best_model_path)
        if path and Path(path).exists()
    ]
    return max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)


def where_to_go_on(trainer: Trainer) -> str:
    """Return a sentence that names the checkpoint from which a run that ended early goes on."""
    if last := last_checkpoint(trainer):
        return f"The last good checkpoint is {last}"
    begun = trainer.ckpt_path
    return f"The run began at {begun}" if begun else "No checkpoint was written yet"


def scaler_of(module: LightningModule) -> object | None:
    """Return the gradient scaler of 16-bit mixed precision, which skips steps that are not finite; else ``None``."""
    trainer = trainer_of(module)
    return None if trainer is None else getattr(trainer.precision_plugin, "scaler", None)


def allow_unused_parameters(trainer: Trainer) -> None:
    """Let DDP accept a backward pass that does not reach every parameter.

    Generator and critic have a backward pass each; plain DDP waits for both in either. Only the constructor of
    the strategy takes the option, and it has run when a module meets its trainer, hence the private name.
    What the user has set stays.
    """
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
