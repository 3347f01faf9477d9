"""The values that travel between rooms, and the legend of every shape suffix in the package."""

# Shapes: L layers, B batch, F frames, T tokens per frame, N heads, D head dim, S = F * T tokens,
#         C channels, H W latent height / width. A suffix spells the axes: key_LBFTND is [L, B, F, T, N, D].

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class KV:
    """Keys and values of some latent frames in all layers. Never written in place.

    Keys are taken after qk-norm and before any rotary embedding, so a frame can be read at any
    temporal index later.

    Args:
        key_LBFTND: ``[L, B, F, T, N, D]``, un-rotated.
        value_LBFTND: ``[L, B, F, T, N, D]``.
        births: For each frame the latent-frame index it stands for, counted from the start of the
            stream. Host-side integers, so positions cost no synchronisation.
    """

    key_LBFTND: Tensor
    value_LBFTND: Tensor
    births: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.key_LBFTND.shape[2] == len(self.births), "one birth index per frame"
        assert self.key_LBFTND.shape == self.value_LBFTND.shape, "keys and values differ in shape"

    @property
    def num_frames(self) -> int:
        """Count the frames."""
        return len(self.births)

    def frames(self, start: int, stop: int | None = None) -> KV:
        """Return frames ``start:stop`` as views."""
        part = slice(start, stop)
        return KV(self.key_LBFTND[:, :, part], self.value_LBFTND[:, :, part], self.births[part])

    def take(self, index: Sequence[int], births: Sequence[int] | None = None) -> KV:
        """Return the frames at ``index`` in that order, optionally under other ``births``."""
        where = torch.tensor(index, dtype=torch.long, device=self.key_LBFTND.device)
        names = tuple(self.births[i] for i in index) if births is None else tuple(births)
        return KV(
            self.key_LBFTND.index_select(2, where),
            self.value_LBFTND.index_select(2, where),
            names,
        )

    def put(self, index: Sequence[int], other: KV) -> KV:
        """Return these frames with those at ``index`` replaced by ``other``'s; births stay."""
        where = torch.tensor(index, dtype=torch.long, device=self.key_LBFTND.device)
        return replace(
            self,
            key_LBFTND=self.key_LBFTND.index_copy(2, where, other.key_LBFTND),
            value_LBFTND=self.value_LBFTND.index_copy(2, where, other.value_LBFTND),
        )

    def lerp(self, other: KV, weight: float) -> KV:
        """Move keys and values towards ``other`` by ``weight``; births stay."""
        return replace(
            self,
            key_LBFTND=self.key_LBFTND.lerp(other.key_LBFTND, weight),
            value_LBFTND=self.value_LBFTND.lerp(other.value_LBFTND, weight),
        )

    def detach(self) -> KV:
        """Return the same frames without a graph."""
        return replace(
            self, key_LBFTND=self.key_LBFTND.detach(), value_LBFTND=self.value_LBFTND.detach()
        )

    @staticmethod
    def cat(parts: Sequence[KV]) -> KV:
        """Join along the frame axis. One part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        return KV(
            torch.cat([part.key_LBFTND for part in parts], dim=2),
            torch.cat([part.value_LBFTND for part in parts], dim=2),
            tuple(birth for part in parts for birth in part.births),
        )


Contents = Mapping[str, KV]
"""What an anchor carries between chunks: named frames. Treated as immutable, saved by name."""


class TextKV(NamedTuple):
    """Cross-attention keys and values of the prompts, one ``[B, S, N, D]`` tensor per layer."""

    key_LBSND: tuple[Tensor, ...]
    value_LBSND: tuple[Tensor, ...]


class Window(NamedTuple):
    """What a pass may read: rotated context keys and values, with room behind them.

    ``num_tokens`` tokens are context. Where ``has_room`` is set (inference), the tensors are longer:
    the backbone puts the live frames' keys and values into that room, which is scratch, instead of
    copying the context in every layer and pass.
    """

    key_LBSND: Tensor
    value_LBSND: Tensor
    num_tokens: int
    has_room: bool


class LivePositions(NamedTuple):
    """Temporal indices of the live frames, for queries and for keys (equal but for parity quirks)."""

    query: tuple[float, ...]
    key: tuple[float, ...]


class WindowFrames(NamedTuple):
    """What a cache needs to know to give every frame a temporal index. Host-side integers."""

    anchor_births: tuple[int, ...]
    num_state_frames: int
    cached_births: tuple[int, ...]
    live_births: tuple[int, ...]


class Positions(NamedTuple):
    """Temporal index of every part of the window; ``live`` covers state frames, then content."""

    anchor: tuple[float, ...]
    cached: tuple[float, ...]
    live: LivePositions


class Eviction(NamedTuple):
    """Result of making room: blocks that stay, and the frames that leave (``None``: nothing left)."""

    kept: tuple[KV, ...]
    evicted: KV | None


class BackboneOutput(NamedTuple):
    """Velocity ``[B, F, C, H, W]`` and, if asked for, the live frames' raw keys and values."""

    velocity_BFCHW: Tensor
    kv: KV | None


@dataclass(frozen=True)
class Event:
    """Something that happens at the start of a chunk. Plain data, so a timeline can be saved.

    Args:
        chunk: Index of the chunk it opens.
        prompt: Index of the prompt from here on; ``None`` keeps the present one.
        keep_frames: Keep only this many of the newest cached frames (KV flush); ``None`` keeps all.
            Dropped frames reach ``Anchor.absorb`` only while the anchor is not full.
        live_start: Temporal index of the first live frame in this chunk only (RoPE cut).
        recache_frames: Re-encode this many of the newest clean latents with the new prompt; all
            that are cached while the anchor is not full (LongLive).
        reset_anchor: The anchor begins anew (re-base).
    """

    chunk: int
    prompt: int | None = None
    keep_frames: int | None = None
    live_start: float | None = None
    recache_frames: int = 0
    reset_anchor: bool = False


@dataclass(frozen=True)
class Committed:
    """What a chunk leaves behind after its clean pass.

    Args:
        content: KV of the content frames.
        content_latents_BFCHW: Their clean latents.
        state: KV of the state frames, or ``None`` where the anchor had none live.
        state_latents_BFCHW: Their clean latents, never rendered.
    """

    content: KV
    content_latents_BFCHW: Tensor
    state: KV | None
    state_latents_BFCHW: Tensor | None


@dataclass(frozen=True)
class StreamState:
    """Everything a stream needs to go on. Immutable: keeping it is branching it.

    A state is B streams in lock-step: same chunk and events, own text, own stream id.

    Args:
        chunk: Index of the next chunk.
        first_frame: Index of its first latent frame. Python integer, unbounded.
        latent_shape: ``(C, H, W)`` of one latent frame.
        blocks: Cached content, one block per chunk, oldest first.
        anchor: The anchor's contents.
        texts_PBSD: Raw text embeddings of all prompts of the timeline, ``[P, B, S, D]``.
        prompt: Index of the prompt in force.
        seed: Seed of the noise.
        stream_ids: One identity per row; noise depends on it and not on the row.
        timeline: Events still to come or past, by chunk.
        recent_BFCHW: Last clean latents, kept for a re-cache.
        codec: The codec's state, named tensors.
        text_kv: Text K/V of the prompt in force. Derived from ``texts_PBSD``, never saved.
    """

    chunk: int
    first_frame: int
    latent_shape: tuple[int, int, int]
    blocks: tuple[KV, ...]
    anchor: Contents
    texts_PBSD: Tensor
    prompt: int
    seed: int
    stream_ids: tuple[int, ...]
    timeline: tuple[Event, ...] = ()
    recent_BFCHW: Tensor | None = None
    codec: Mapping[str, Tensor] = field(default_factory=dict)
    text_kv: TextKV | None = None

    @property
    def batch_size(self) -> int:
        """Count the streams in lock-step."""
        return len(self.stream_ids)

    @property
    def cached_births(self) -> tuple[int, ...]:
        """List the birth indices of the cached content frames, oldest first."""
        return tuple(birth for block in self.blocks for birth in block.births)


@dataclass(frozen=True)
class Chunk:
    """One step's result.

    Args:
        index: Chunk index.
        first_frame: Latent-frame index of its first frame.
        latents_BFCHW: Clean content latents, ``[B, F, C, H, W]``; with a graph in training.
        state_latents_BFCHW: Clean state latents, or ``None``. Never rendered; for probes.
        state: The stream state after this chunk.
    """

    index: int
    first_frame: int
    latents_BFCHW: Tensor
    state_latents_BFCHW: Tensor | None
    state: StreamState


class VideoBatch(TypedDict):
    """A batch of clips ``[B, F, 3, H, W]`` in [0, 1], and their captions."""

    video: Tensor
    prompts: list[str]


class LossOutput(NamedTuple):
    """A scalar to minimise, and detached scalars to log."""

    loss: Tensor
    logs: dict[str, Tensor]
