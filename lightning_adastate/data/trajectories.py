"""Stored teacher trajectories as batches, for training that can be stopped and resumed at any batch."""

# Shapes: B batch, K states, F frames, C channels, H W latent height / width.

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from lightning_adastate.data.resumable import ResumableData
from lightning_adastate.data.sampler import Draw
from lightning_adastate.data.trajectory_lmdb import LmdbSource, is_lmdb
from lightning_adastate.data.trajectory_shards import ShardSource, Trajectory, TrajectorySource
from lightning_adastate.types import TrajectoryBatch


class Row(NamedTuple):
    """A trajectory and the noise levels of its states."""

    trajectory: Trajectory
    sigmas: tuple[float, ...]


class Trajectories(Dataset[object]):
    """Some of a source's trajectories.

    Args:
        source: Where they are read from.
        indices: Which.
    """

    def __init__(self, source: TrajectorySource, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = list(indices)

    def __len__(self) -> int:
        """Count them."""
        return len(self.indices)

    def __getitem__(self, draw: Draw) -> Row:
        """Return one; there is nothing to choose within it."""
        return Row(self.source[self.indices[draw.video]], self.source.sigmas)


def collate(rows: list[Row]) -> TrajectoryBatch:
    """Return trajectories as one batch."""
    trajectories = [row.trajectory for row in rows]
    contexts = [one.context_FCHW for one in trajectories if one.context_FCHW is not None]
    return {
        "latents": torch.stack([one.latents_KFCHW for one in trajectories]),
        "sigmas": torch.tensor([row.sigmas for row in rows], dtype=torch.float32),
        "context": torch.stack(contexts) if contexts else None,
        "prompts": [one.prompt for one in trajectories],
    }


class TrajectoryData(ResumableData):
    """Read trajectories that ``trajectories`` has made, or an LMDB of the public tools.

    All choices are a pure function of ``seed``, epoch and rank, so a resumed run sees the very batches it
    would have seen.

    Args:
        folder: Safetensors files of ours; or an LMDB, or the folder of its ``shard_*``.
        batch_size: Trajectories per batch and rank.
        timesteps: Timesteps of an LMDB's states, falling; ours say so themselves.
        row_shape: ``[K, F, C, H, W]`` of an LMDB that has lost it.
        val_fraction: Share set aside for validation, in [0, 1).
        num_workers: Processes that read; 0 reads in the main one.
        seed: Of the split and the order.

    Raises:
        ValueError: If a number is out of range; at set-up, if there are no trajectories or they do not fit.
    """

    noun = "trajectories"

    def __init__(
        self,
        folder: str,
        *,
        batch_size: int = 16,
        timesteps: Sequence[float] = (),
        row_shape: Sequence[int] | None = None,
        val_fraction: float = 0.05,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, val_fraction=val_fraction, num_workers=num_workers, seed=seed
        )
        steps = list(timesteps)
        falling = all(a > b for a, b in itertools.pairwise(steps))
        if steps and not (falling and 0.0 < steps[-1] <= steps[0] <= 1000.0):
            raise ValueError(f"`timesteps` must fall and lie in (0, 1000], got {steps}")
        self.folder = Path(folder).expanduser()
        self.timesteps = steps
        self.row_shape = row_shape

    @property
    def source(self) -> str:
        """Name the folder."""
        return str(self.folder)

    def setup(self, stage: str | None = None) -> None:
        """Open, check and split; the same split on every rank."""
        del stage
        if self.train_rows is not None:
            return
        source = self._open()
        train, val = self.split(len(source))
        self.collate = collate
        self.train_rows = Trajectories(source, train)
        self.val_rows = Trajectories(source, val)

    def _open(self) -> TrajectorySource:
        """Find out what the folder holds.

        Raises:
            ValueError: If it is not there, or ``timesteps`` are missing or of no use.
        """
        if not self.folder.is_dir():
            raise ValueError(
                f"trajectory folder '{self.folder}' does not exist; make it with the verb `trajectories`"
            )
        if is_lmdb(self.folder):
            if not self.timesteps:
                raise ValueError(
                    f"the LMDB '{self.folder}' does not say at which noise levels its states are; give "
                    "`timesteps`, for example [1000, 960, 888.9, 727.3]"
                )
            return LmdbSource(self.folder, timesteps=self.timesteps, row_shape=self.row_shape)
        if self.timesteps or self.row_shape:
            raise ValueError(
                f"`timesteps` and `row_shape` are for an LMDB; '{self.folder}' is none"
            )
        return ShardSource(self.folder)
