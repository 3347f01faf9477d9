"""Noise as a pure function of (seed, stream, chunk, step, slot): no draw depends on an earlier one."""

# Shapes: B batch (streams), F frames, C channels, H W latent height / width.

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_adastate.components import Component

Slot = Literal["content", "state"]


class NoiseKey(NamedTuple):
    """What a draw is for. ``step`` 0 starts a chunk; step i is drawn after the i-th denoise pass."""

    chunk: int
    step: int
    slot: Slot


class NoiseSource(Component, ABC):
    """Give the noise of a stream. Draws are float32 on the CPU; the streamer moves them."""

    @abstractmethod
    def draw(
        self, key: NoiseKey, *, seed: int, stream_ids: Sequence[int], shape_FCHW: tuple[int, ...]
    ) -> Tensor:
        """Return ``[B, F, C, H, W]`` standard normal noise, one row per stream.

        Args:
            key: What it is for.
            seed: Seed of the run.
            stream_ids: Identity of each row; a row's noise depends on its identity alone.
            shape_FCHW: Shape of one row.
        """


class CounterNoise(NoiseSource):
    """Seed a fresh generator for every (seed, stream, chunk, step, slot).

    So a stream does not depend on its batch, on how many chunks are streamed, or on a resume; and
    because the hidden state has its own slot, switching it on leaves the content's noise as it was.
    """

    def draw(
        self, key: NoiseKey, *, seed: int, stream_ids: Sequence[int], shape_FCHW: tuple[int, ...]
    ) -> Tensor:
        """Return one independent row per stream."""
        rows = []
        for stream in stream_ids:
            name = f"{seed}/{stream}/{key.chunk}/{key.step}/{key.slot}".encode()
            digest = hashlib.blake2b(name, digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
            rows.append(torch.randn(shape_FCHW, generator=generator, dtype=torch.float32))
        return torch.stack(rows)


class RepeatedNoise(CounterNoise):
    """Start every chunk from the same noise, as Rolling Sink's released script does.

    Fresh noise between steps stays different for every chunk.
    """

    def draw(
        self, key: NoiseKey, *, seed: int, stream_ids: Sequence[int], shape_FCHW: tuple[int, ...]
    ) -> Tensor:
        """Return chunk 0's noise for the first step of any chunk."""
        if key.step == 0:
            key = key._replace(chunk=0)
        return super().draw(key, seed=seed, stream_ids=stream_ids, shape_FCHW=shape_FCHW)


class RecordedNoise(NoiseSource):
    """Play back recorded draws.

    Args:
        draws: For each key the recorded ``[B, F, C, H, W]`` noise.
    """

    def __init__(self, draws: Mapping[NoiseKey, Tensor]) -> None:
        self.draws = dict(draws)

    def draw(
        self, key: NoiseKey, *, seed: int, stream_ids: Sequence[int], shape_FCHW: tuple[int, ...]
    ) -> Tensor:
        """Return the record.

        Raises:
            ValueError: If there is none, or it has another shape.
        """
        del seed
        shape = (len(stream_ids), *shape_FCHW)
        if key not in self.draws:
            raise ValueError(f"the recording has no noise for {tuple(key)}")
        found = self.draws[key]
        if tuple(found.shape) != shape:
            raise ValueError(
                f"the noise recorded for {tuple(key)} has shape {tuple(found.shape)}, "
                f"expected {shape}"
            )
        return found
