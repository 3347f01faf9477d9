"""Where the runs of a trainer leave their checkpoints."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_adastate.callbacks.graceful_stop import graceful_stops


def checkpoint_folders(trainer: Trainer) -> list[Path]:
    """Return the folders in which a trainer's runs leave checkpoints: all versions', where they are numbered."""
    callbacks = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    named = [c.dirpath for c in callbacks] or [trainer.default_root_dir]
    named += [stop.folder for stop in graceful_stops(trainer) if stop.folder is not None]
    folders = [Path(folder) for folder in named if folder is not None]
    if None in named:
        folders += _folders_of_versions(trainer)
    return list(dict.fromkeys(folders))


def _folders_of_versions(trainer: Trainer) -> list[Path]:
    """Return where checkpoints go that are kept beside the first logger's files."""
    if not trainer.loggers:
        return [Path(trainer.default_root_dir) / "checkpoints"]
    logger = trainer.loggers[0]
    root = Path(logger.save_dir or trainer.default_root_dir) / str(logger.name)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    own = root / version / "checkpoints"
    if any(own.glob("*.ckpt")):  # a new number would have none: this one was asked for
        return [own]
    return sorted(root.glob("*/checkpoints")) or [own]
