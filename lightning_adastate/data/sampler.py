"""Order of clips in an epoch, as a pure function of (seed, epoch, rank): nothing to save."""

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

    It is a ``DistributedSampler`` so that Lightning does not replace it and calls ``set_epoch``. Its
    order depends on nothing else, so a resumed loader finds its place by skipping what was drawn.

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

    def __iter__(self) -> Iterator[Draw]:
        """Yield this rank's draws of the present epoch; unshuffled, every number is zero."""
        for index in super().__iter__():
            assert isinstance(index, int)
            yield Draw(index, self._number(index) if self.shuffle else 0)

    def _number(self, index: int) -> int:
        name = f"{self.seed}/{self.epoch}/{index}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "big")
