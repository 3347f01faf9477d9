"""Order of clips in an epoch, as a pure function of (seed, epoch, rank)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler


class Draw(NamedTuple):
    """Which video, and a random number from which its dataset derives all other choices."""

    video: int
    number: int


class ClipSampler(DistributedSampler[Draw]):
    """Shuffle videos for one rank; all ranks together see each video once per epoch.

    It is a ``DistributedSampler`` so that Lightning does not replace it. It counts epochs itself, one
    for each iterator that was used, and ``set_epoch`` names only the first: a Trainer that resumes
    tells the epoch too late, and one too many if it stopped at an epoch's last batch.

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
        self.latest: Draws | None = None

    def __iter__(self) -> Draws:
        """Start the next epoch's draws of this rank; unshuffled, every number is zero."""
        if self.latest is None:
            self.latest = Draws(self, self.epoch)
        else:
            self.latest = Draws(self, self.latest.epoch + bool(self.latest.num_drawn))
        return self.latest

    def draws(self, epoch: int) -> list[Draw]:
        """Return this rank's draws of an epoch."""
        before, self.epoch = self.epoch, epoch
        order = [int(index) for index in super().__iter__()]  # type: ignore[call-overload]
        self.epoch = before
        return [Draw(index, self._number(epoch, index) if self.shuffle else 0) for index in order]

    def _number(self, epoch: int, index: int) -> int:
        name = f"{self.seed}/{epoch}/{index}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "big")


class Draws(Iterator[Draw]):
    """One epoch's draws, with a place that can be saved: the same on every rank.

    Args:
        sampler: Whose draws.
        epoch: Of which epoch.
    """

    def __init__(self, sampler: ClipSampler, epoch: int) -> None:
        self.sampler = sampler
        self.epoch = epoch
        self.num_drawn = 0
        self._draws = sampler.draws(epoch)

    def __next__(self) -> Draw:
        """Return the next draw."""
        if self.num_drawn == len(self._draws):
            raise StopIteration
        self.num_drawn += 1
        return self._draws[self.num_drawn - 1]

    def state_dict(self) -> dict[str, int]:
        """Return the place: epoch and draws done."""
        return {"epoch": self.epoch, "num_drawn": self.num_drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a saved place."""
        self.epoch, self.num_drawn = state["epoch"], state["num_drawn"]
        self._draws = self.sampler.draws(self.epoch)
        self.sampler.latest = self
