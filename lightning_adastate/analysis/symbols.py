"""A backbone that computes nothing: every frame's values name it, so what a pass reads can be read back."""

# Shapes: L layers, B batch, F frames, T tokens, N heads, D head dim, S = F * T tokens, C channels, H W rows / columns.

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_adastate.backbones.base import Backbone
from lightning_adastate.rope import THETA, split_pairs
from lightning_adastate.types import (
    KV,
    BackboneOutput,
    LivePositions,
    TextKV,
    TimeEmbedding,
    Window,
)

RANDOM_DIMS = 8
"""Dimensions of keys and queries that are random, so that an anchor that selects has something to choose by."""

SMALLEST_SHARE = 1e-9


class Label(NamedTuple):
    """What a committed frame is.

    Args:
        kind: ``frame`` is content, ``state`` a hidden frame.
        number: Number of the frame in the stream; of a hidden frame, its place among those of its chunk.
        chunk: The chunk that committed or re-encoded it.
        timestep: Timestep of the pass its keys and values come from; 0 is clean.
        reencoded: Whether they come from a re-encode.
    """

    kind: Literal["frame", "state"]
    number: int
    chunk: int
    timestep: float = 0.0
    reencoded: bool = False


class Content(NamedTuple):
    """What some tokens hold and where they stand, relative to the chunk's last frame.

    Args:
        shares: What is mixed, and how much of each; in the order of commitment.
        first: Lowest temporal index of the tokens.
        last: Highest temporal index.
    """

    shares: tuple[tuple[Label, float], ...]
    first: float
    last: float


@dataclass(frozen=True)
class Forward:
    """One call of the backbone.

    Args:
        window: What it could read, or ``None``.
        positions: Temporal indices of its live frames, relative to the chunk's last frame.
        timesteps: Timestep of each live frame.
    """

    window: Window | None
    positions: LivePositions
    timesteps: tuple[float, ...]


class SymbolicBackbone(Backbone):
    """Give frames one-hot values and keys whose angle tells their place in time.

    Velocity is zero. Frames that are committed are named by ``names``, which the caller sets before.

    Args:
        num_labels: Frames that can be named.
        grid: Rows and columns of a frame's tokens.
    """

    in_channels = 1
    num_layers = 1
    num_heads = 1
    text_dim = 1

    def __init__(self, num_labels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.head_dim = 24 + 2 * max(0, (num_labels - 23) // 2)
        self.labels: list[Label] = []
        self.names: tuple[Label, ...] = ()
        self.forwards: list[Forward] = []
        pairs, _, _ = split_pairs(self.head_dim)
        self.clock = 2 * (pairs - 1)  # the pair that turns most slowly with time
        self.frequency = THETA ** -((pairs - 1) / pairs)

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Return the tokens of a frame."""
        return height * width

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns."""
        return height, width

    def text_kv(self, text_BSD: Tensor) -> TextKV:
        """Return nothing."""
        del text_BSD
        return TextKV((), ())

    def embed_time(self, timestep_BF: Tensor) -> TimeEmbedding:
        """Return the timesteps."""
        return TimeEmbedding((timestep_BF,))

    def forward(
        self,
        latents_BFCHW: Tensor,
        *,
        timestep_BF: Tensor,
        text: TextKV,
        positions: LivePositions | None = None,
        window: Window | None = None,
        mask_FF: Tensor | None = None,
        clean_latents_BFCHW: Tensor | None = None,
        return_kv: bool = False,
        return_query: bool = False,
        time: TimeEmbedding | None = None,
        kv_only: bool = False,
    ) -> BackboneOutput:
        """Note what could be read; name the first live frames if their keys and values are wanted."""
        del text, mask_FF, clean_latents_BFCHW, time, kv_only
        assert positions is not None
        timesteps = tuple(float(step) for step in timestep_BF[0])
        self.forwards.append(Forward(window, positions, timesteps))
        velocity = torch.zeros_like(latents_BFCHW)
        if not return_kv:
            return BackboneOutput(velocity, None)
        frames = latents_BFCHW.shape[1]
        kv = self._encode(frames, timesteps)
        query = self._random(frames, seed=-len(self.forwards)) if return_query else None
        return BackboneOutput(velocity, kv, query)

    def _encode(self, num_frames: int, timesteps: tuple[float, ...]) -> KV:
        """Return keys and values of newly named frames; those ahead of the chunk get no name."""
        start = len(self.labels)
        for name, timestep in zip(self.names, timesteps, strict=False):
            self.labels.append(name._replace(timestep=timestep))
        key = self._random(num_frames, seed=start)
        key[..., self.clock] = 1.0
        value = torch.zeros_like(key)
        for frame in range(min(num_frames, len(self.names))):
            value[:, :, frame, ..., start + frame] = 1.0
        return KV(key, value, tuple(range(num_frames)))

    def _random(self, num_frames: int, seed: int) -> Tensor:
        tokens = self.grid[0] * self.grid[1]
        x_LBFTND = torch.zeros(1, 1, num_frames, tokens, 1, self.head_dim)
        generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) & 0xFFFFFFFF)
        shape = (num_frames, tokens, RANDOM_DIMS)
        drawn = torch.randn(shape, generator=generator, dtype=torch.float32)
        x_LBFTND[0, 0, :, :, 0, -RANDOM_DIMS:] = drawn
        return x_LBFTND

    def decode(self, window: Window, start: int, num_tokens: int) -> Content:
        """Read back what the tokens from ``start`` on hold and where they stand."""
        tokens = slice(start, start + num_tokens)
        held = window.value_LBSND[0, 0, tokens, 0].double().mean(0)
        found = (held > SMALLEST_SHARE).nonzero().flatten().tolist()
        turned = window.key_LBSND[0, 0, tokens, 0, self.clock : self.clock + 2].double()
        index = torch.atan2(turned[:, 1], turned[:, 0]) / self.frequency
        return Content(
            tuple((self.labels[i], float(held[i])) for i in found),
            _tidy(float(index.min())),
            _tidy(float(index.max())),
        )


def _tidy(index: float) -> float:
    """Round what float32 left of an index; indices are whole unless a cache says otherwise."""
    return round(index, 2) + 0.0
