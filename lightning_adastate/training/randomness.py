"""Random numbers of a training step, as a pure function of what they are for."""

from __future__ import annotations

import hashlib

import torch


def fold_seed(*parts: int | str) -> int:
    """Mix ``parts`` into one seed in [0, 2**63), the same in every process.

    Nothing drawn from it depends on what was drawn before, so a resumed run needs no saved generator.

    >>> fold_seed(0, "critic", 7) == fold_seed(0, "critic", 7)
    True
    """
    name = "/".join(str(part) for part in parts).encode()
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_of(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded from ``parts``."""
    return torch.Generator().manual_seed(fold_seed(*parts))


def stream_ids_of(rank: int, count: int) -> tuple[int, ...]:
    """Return identities for a rank's streams that no other rank's have."""
    first = rank * 2**32
    return tuple(range(first, first + count))
