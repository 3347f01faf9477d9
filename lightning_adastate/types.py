"""The values that travel between rooms, and the legend of every shape suffix in the package."""

# Shapes: L layers, B batch, F frames, T tokens per frame, N heads, D head dim, S = F * T tokens,
#         C channels, H W latent height / width. A suffix spells the axes: key_LBFTND is [L, B, F, T, N, D].

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

from torch import Tensor

from lightning_adastate.kv import KV, Contents, TokenPlaces

SCHEMA_VERSION = 3


class TextKV(NamedTuple):
    """Cross-attention keys and values of the prompts, one ``[B, S, N, D]`` tensor per layer."""

    key_LBSND: tuple[Tensor, ...]
    value_LBSND: tuple[Tensor, ...]


class TimeEmbedding(NamedTuple):
    """What a backbone makes of the timesteps of a pass; the same for every chunk of a stream.

    Args:
        parts: The backbone's own tensors, ``[B or 1, F, ...]`` each.
    """

    parts: tuple[Tensor, ...]


class Window(NamedTuple):
    """What a pass may read: rotated context keys and values, with room behind them.

    ``is_steady`` says that it has the shape of the chunk before, so a compiled pass fits.
    ``num_tokens`` tokens are context. Where ``has_room`` is set (inference), the tensors are longer:
    the backbone puts the live frames' keys and values into that room, which is scratch, instead of
    copying the context in every layer and pass.
    """

    key_LBSND: Tensor
    value_LBSND: Tensor
    num_tokens: int
    has_room: bool
    is_steady: bool = False


class LivePositions(NamedTuple):
    """Temporal indices of the live frames, for queries and for keys (equal but for parity quirks)."""

    query: tuple[float, ...]
    key: tuple[float, ...]


class WindowFrames(NamedTuple):
    """What a cache needs to know to give every frame a temporal index. Host-side integers."""

    anchor_frame_indices: tuple[int, ...]
    num_state_frames: int
    cached_frame_indices: tuple[int, ...]
    live_frame_indices: tuple[int, ...]


class Positions(NamedTuple):
    """Temporal index of every part of the window; ``live`` covers state frames, then content."""

    anchor: tuple[float, ...]
    cached: tuple[float, ...]
    live: LivePositions


class Eviction(NamedTuple):
    """Result of making room: blocks that stay, and the frames that leave (``None``: nothing left)."""

    retained: tuple[KV, ...]
    evicted: KV | None


class BackboneOutput(NamedTuple):
    """Velocity ``[B, F, C, H, W]`` and, if asked for, the live frames' raw keys, values and queries.

    A pass that ends at its last keys and values has the velocity of no frames, ``[B, 0, C, H, W]``.
    Queries ``[L, B, F, T, N, D]`` are, as the keys are, taken after qk-norm and not rotated.
    """

    velocity_BFCHW: Tensor
    kv: KV | None
    query_LBFTND: Tensor | None = None


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
        every: Happen again every so many chunks (restarts); ``None`` happens once.
        reencode_first: Before re-encoding latents, make the first of them an image latent: decode,
            encode its last picture (CausVid). Needs a codec, so plain ``Streamer`` leaves it alone.
    """

    chunk: int
    prompt: int | None = None
    keep_frames: int | None = None
    live_start: float | None = None
    recache_frames: int = 0
    reset_anchor: bool = False
    every: int | None = None
    reencode_first: bool = False

    def opens(self, chunk: int) -> bool:
        """Whether it happens at the start of ``chunk``."""
        if self.every is None:
            return chunk == self.chunk
        return chunk >= self.chunk and (chunk - self.chunk) % self.every == 0


@dataclass(frozen=True)
class Committed:
    """What a chunk leaves behind after its clean pass.

    Args:
        content: KV of the content frames.
        content_latents_BFCHW: Their clean latents.
        state: KV of the state frames, or ``None`` where the anchor had none live.
        state_latents_BFCHW: Their clean latents, never rendered.
        grid: Rows and columns of a frame's tokens.
        query_LBFTND: Queries of the content frames, not rotated, if the anchor asked for them.
    """

    content: KV
    content_latents_BFCHW: Tensor
    state: KV | None
    state_latents_BFCHW: Tensor | None
    grid: tuple[int, int] = (1, 1)
    query_LBFTND: Tensor | None = None


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
        given_chunks: How many of the chunks so far were given; the schedule need not count them.
        timeline: Events still to come or past, by chunk.
        recent_BFCHW: Last clean latents, kept for a re-cache.
        history: Evicted frames that a commit pass may still read (Rolling Forcing), oldest first.
        pending_BFCHW: Part-denoised latents of the chunks ahead (Rolling Forcing), noisy.
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
    given_chunks: int = 0
    timeline: tuple[Event, ...] = ()
    recent_BFCHW: Tensor | None = None
    history: tuple[KV, ...] = ()
    pending_BFCHW: Tensor | None = None
    codec: Mapping[str, Tensor] = field(default_factory=dict)
    text_kv: TextKV | None = None

    @property
    def batch_size(self) -> int:
        """Count the streams in lock-step."""
        return len(self.stream_ids)

    @property
    def is_finite(self) -> bool:
        """Whether all keys and values that the next chunk may read are finite. Waits for the device."""
        held = (*self.blocks, *self.history, *self.anchor.values())
        parts = (part for kv in held for part in (kv.key_LBFTND, kv.value_LBFTND))
        return all(bool(part.isfinite().all()) for part in parts)

    @property
    def cached_frame_indices(self) -> tuple[int, ...]:
        """List the frame indices of the cached content frames, oldest first."""
        return tuple(frame_index for block in self.blocks for frame_index in block.frame_indices)


@dataclass(frozen=True)
class Chunk:
    """One step's result.

    Args:
        index: Chunk index.
        first_frame: Latent-frame index of its first frame.
        latents_BFCHW: Clean content latents, ``[B, F, C, H, W]``; with a graph in training.
        state_latents_BFCHW: Clean state latents, or ``None``. Never rendered; for probes.
        state: The stream state after this chunk.
        ahead_BFCHW: What the exit pass took the frames behind the chunk for, or ``None`` where the
            schedule denoises one chunk at a time.
    """

    index: int
    first_frame: int
    latents_BFCHW: Tensor
    state_latents_BFCHW: Tensor | None
    state: StreamState
    ahead_BFCHW: Tensor | None = None


class VideoBatch(TypedDict):
    """A batch of clips ``[B, F, 3, H, W]`` in [0, 1], and their captions."""

    video: Tensor
    prompts: list[str]


class PromptBatch(VideoBatch):
    """Prompts to make videos of, in lock-step; ``video`` has no frames.

    ``names`` are the videos' file names, ``seed`` is that of all their noise, ``stream_ids`` tell the rows' noise
    apart, ``num_chunks`` is their length.
    """

    names: list[str]
    seed: int
    stream_ids: list[int]
    num_chunks: int


class TrajectoryBatch(TypedDict):
    """Solutions of a teacher's ODE, noisiest state first, the clean end last.

    ``latents`` is ``[B, K, F, C, H, W]``; ``sigmas`` ``[B, K]`` are the noise levels of the states, the last 0.
    ``context`` ``[B, F, C, H, W]`` are the real clips whose past the teacher saw clean, if it did.
    """

    latents: Tensor
    sigmas: Tensor
    context: Tensor | None
    prompts: list[str]


class LossOutput(NamedTuple):
    """A scalar to minimise, and detached scalars to log."""

    loss: Tensor
    logs: dict[str, Tensor]


__all__ = [
    "KV",
    "SCHEMA_VERSION",
    "BackboneOutput",
    "Chunk",
    "Committed",
    "Contents",
    "Event",
    "Eviction",
    "LivePositions",
    "LossOutput",
    "Positions",
    "PromptBatch",
    "StreamState",
    "TextKV",
    "TimeEmbedding",
    "TokenPlaces",
    "TrajectoryBatch",
    "VideoBatch",
    "Window",
    "WindowFrames",
]
