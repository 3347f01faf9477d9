"""Order of clips in an epoch, as a pure function of (seed, epoch, rank)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple, cast

from torch.utils.data import Dataset, DistributedSampler
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler


class Draw(NamedTuple):
    """Which video, and a random number from which its dataset derives all other choices."""

    video: int
    number: int


class ClipSampler(StatefulDistributedSampler):  # type: ignore[misc]
    """Shuffle videos for one rank; all ranks together see each video once per epoch.

    It is a ``DistributedSampler`` so that Lightning does not replace it. torchdata's keeps the place within an
    epoch; this one keeps the epoch too. It counts epochs itself, one for each iterator that was used, and
    ``set_epoch`` names only the first: a Trainer that resumes tells the epoch too late, and one too many if it
    stopped at an epoch's last batch.

    Args:
        dataset: What to draw from.
        num_replicas: Ranks.
        rank: This one.
        seed: Of the order.
        shuffle: Training: random order, and what does not divide by the ranks is left out. Otherwise
            in order, and some videos are repeated.
    """

    def __init__(
        self,
        dataset: Dataset[object],
        *,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        super().__init__(
            dataset,
            num_replicas=num_replicas,
            rank=rank,
            shuffle=shuffle,
            seed=seed,
            drop_last=shuffle,
        )
        self.has_begun = False

    def set_epoch(self, epoch: int) -> None:
        """Name the first epoch."""
        if not self.has_begun:
            super().set_epoch(epoch)

    def __iter__(self) -> Iterator[Draw]:
        """Yield the next epoch's draws of this rank; unshuffled, every number is zero."""
        if self.has_begun and self.next_yielded is None:
            self.epoch += 1
        self.has_begun = True
        for index in super().__iter__():
            yield Draw(int(index), self._number(int(index)) if self.shuffle else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the place: the epoch and how many of its draws are done."""
        return {**super().state_dict(), "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved place."""
        super().load_state_dict(state_dict)
        self.epoch, self.has_begun = state_dict["epoch"], True

    def _number(self, index: int) -> int:
        name = f"{self.seed}/{self.epoch}/{index}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "big")


class EachOnce(DistributedSampler[Any]):
    """Share rows out in order, each to one process alone; Lightning's and torch's repeat some."""

    def __iter__(self) -> Iterator[int]:
        """Yield this process's rows."""
        return iter(self._rows)

    def __len__(self) -> int:
        """Count them."""
        return len(self._rows)

    @property
    def _rows(self) -> range:
        return range(self.rank, len(cast("Sized", self.dataset)), self.num_replicas)
