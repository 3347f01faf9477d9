"""Prompts alone, one per line of a text file: all that self-forcing from text needs."""

# Shapes: B batch, F frames, H W height / width in pixels.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from lightning_adastate.data.prompts import read_prompts
from lightning_adastate.data.resumable import ResumableData
from lightning_adastate.data.sampler import Draw
from lightning_adastate.types import VideoBatch


class Prompts(Dataset[object]):
    """Prompts by a draw."""

    def __init__(self, prompts: Sequence[str]) -> None:
        self.prompts = list(prompts)

    def __len__(self) -> int:
        """Count them."""
        return len(self.prompts)

    def __getitem__(self, draw: Draw) -> str:
        """Return one."""
        return self.prompts[draw.video]


class PromptFileData(ResumableData):
    """Read prompts from a UTF-8 text file, one per line; batches are ``VideoBatch`` without frames.

    Args:
        path: The text file.
        batch_size: Prompts per batch and rank.
        val_fraction: Share of the prompts set aside for validation, in [0, 1).
        num_workers: Processes that read; 0 reads in the main one.
        seed: Of the split and the order.

    Raises:
        ValueError: If a number is out of range; at set-up, if the file cannot be read.
    """

    noun = "prompts"

    def __init__(
        self,
        path: str,
        *,
        batch_size: int = 1,
        val_fraction: float = 0.0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, val_fraction=val_fraction, num_workers=num_workers, seed=seed
        )
        self.path = Path(path).expanduser()
        self.collate = without_frames

    @property
    def source(self) -> str:
        """Name the file."""
        return str(self.path)

    def setup(self, stage: str | None = None) -> None:
        """Read and split the prompts; the same split on every rank."""
        del stage
        if self.train_rows is not None:
            return
        if not self.path.is_file():
            raise ValueError(f"prompt file '{self.path}' does not exist")
        prompts = read_prompts(str(self.path))
        train, val = self.split(len(prompts))
        self.train_rows = Prompts([prompts[i] for i in train])
        self.val_rows = Prompts([prompts[i] for i in val])


def without_frames(prompts: list[str]) -> VideoBatch:
    """Return a batch of prompts, with clips of no frames."""
    return VideoBatch(video=torch.zeros(len(prompts), 0, 3, 1, 1), prompts=prompts)
