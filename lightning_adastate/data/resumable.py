"""Loaders that can be stopped and resumed at any batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sized
from typing import cast

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_adastate.data.sampler import ClipSampler


class ResumableData(LightningDataModule):
    """Split rows into training and validation, and load them in an order that is a pure function of the seed.

    A subclass sets ``train_rows`` and ``val_rows``, datasets that are indexed with a ``Draw``, and ``collate``
    in ``setup``. All choices depend on ``seed``, epoch and rank alone, and the loaders never touch the
    global random state, so a resumed run sees the very batches it would have seen.

    Args:
        batch_size: Rows per batch and rank.
        val_fraction: Share of the rows set aside for validation, in [0, 1).
        num_workers: Processes that read; 0 reads in the main one.
        seed: Of the split and the order.

    Raises:
        ValueError: If a number is out of range.
    """

    noun = "rows"
    """What a row is called in messages."""

    def __init__(
        self, *, batch_size: int, val_fraction: float, num_workers: int, seed: int
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more, got {batch_size}")
        if not 0.0 <= val_fraction < 1.0:
            raise ValueError(f"`val_fraction` must be in [0, 1), got {val_fraction}")
        if num_workers < 0 or seed < 0:
            raise ValueError(
                f"`num_workers` and `seed` must be 0 or more, got {num_workers} and {seed}"
            )
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.num_workers = num_workers
        self.seed = seed
        self.train_rows: Dataset[object] | None = None
        self.val_rows: Dataset[object] | None = None
        self.collate: Callable[..., object] | None = None

    def split(self, count: int) -> tuple[list[int], list[int]]:
        """Return which of ``count`` rows are for training and which for validation; alike on every rank."""
        num_val = round(self.val_fraction * count)
        if self.val_fraction:
            num_val = max(1, num_val)
        order = torch.randperm(count, generator=self._generator()).tolist()
        return sorted(order[num_val:]), sorted(order[:num_val])

    def train_dataloader(self) -> StatefulDataLoader:
        """Return shuffled batches of equal size.

        Raises:
            ValueError: If there are fewer rows than one batch on every rank needs.
        """
        assert self.train_rows is not None, "call `setup` first"
        wanted = self.batch_size * self._num_ranks
        have = len(cast("Sized", self.train_rows))
        if have < wanted:
            raise ValueError(
                f"{self.source!r} has {have} {self.noun} for training, one batch on each of "
                f"{self._num_ranks} ranks needs {wanted}; lower `batch_size` or `val_fraction`"
            )
        return self._loader(self.train_rows, shuffle=True)

    def val_dataloader(self) -> StatefulDataLoader | list[StatefulDataLoader]:
        """Return the rows set aside, in order; no loader if there are none."""
        assert self.val_rows is not None, "call `setup` first"
        rows = cast("Sized", self.val_rows)
        return self._loader(self.val_rows, shuffle=False) if len(rows) else []

    def test_dataloader(self) -> StatefulDataLoader | list[StatefulDataLoader]:
        """Return the rows set aside, as for validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> StatefulDataLoader | list[StatefulDataLoader]:
        """Return the rows set aside, as for validation: their captions are what is streamed."""
        return self.val_dataloader()

    @property
    def source(self) -> str:
        """Name where the rows come from, for messages."""
        return type(self).__name__

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @property
    def _num_ranks(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    def _loader(self, rows: Dataset[object], *, shuffle: bool) -> StatefulDataLoader:
        sampler = ClipSampler(
            rows,
            num_replicas=self._num_ranks,
            rank=0 if self.trainer is None else self.trainer.global_rank,
            seed=self.seed,
            shuffle=shuffle,
        )
        if shuffle and self.trainer is not None:
            # Lightning tells the epoch only once the loader has begun, and brings no loader back to its
            # place if the checkpoint was saved at the end of an epoch.
            progress = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*set_vital")  # torchdata 0.11, torch 2.13
            return StatefulDataLoader(
                rows,
                batch_size=self.batch_size,
                sampler=sampler,
                drop_last=shuffle,
                collate_fn=self.collate,
                num_workers=self.num_workers,
                persistent_workers=self.num_workers > 0,
                # A loader without its own generator draws from the global random state.
                generator=self._generator(),
            )
