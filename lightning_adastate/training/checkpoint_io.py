"""How checkpoints get to the disk: staged in their own folder, so that a file of that name is always whole."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Trainer

from lightning_adastate.files import remove_left_over, whole_stream
from lightning_adastate.training.checkpoint_folders import checkpoint_folders

log = logging.getLogger(__name__)


class WholeCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its name, flush it to the disk, and rename it.

    Lightning stages in the folder for temporary files. Where that is on another disk, the last step is a copy, which a
    kill or a full disk cuts short under the checkpoint's own name; a ``PermissionError`` is passed over.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint whole or not at all. Addresses (``s3://...``) are left to Lightning.

        Raises:
            OSError: Naming the checkpoint, if it cannot be written.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with whole_stream(path) as handle:
            try:
                torch.save(checkpoint, handle)
            except RuntimeError as error:  # torch's complaint that its file is not as it left it
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


def write_whole_checkpoints(trainer: Trainer) -> None:
    """Let a trainer write checkpoints by ``WholeCheckpointIO``; a plugin of the user's stays.

    What a run that was killed while it wrote one has left in the same folders goes.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
    for folder in checkpoint_folders(trainer):
        for partial in remove_left_over(folder, ".ckpt"):
            log.info("removed %s, left by a run that was killed", partial)
