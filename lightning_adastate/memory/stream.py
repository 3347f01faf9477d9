"""What a stream keeps and reads in memory, found by streaming with a backbone that computes nothing."""

# Shapes: L layers, B batch, F frames, S tokens, T tokens per frame, N heads, D head dim, C channels,
#         H W latent height / width.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.backbones.base import Backbone
from lightning_adastate.kv import KV
from lightning_adastate.memory.passes import (
    LiveBytes,
    Precision,
    on_fakes,
    rehearsal,
    shortened,
    tensor_bytes,
)
from lightning_adastate.noise import NoiseKey, NoiseSource
from lightning_adastate.streaming.buffers import StreamBuffers
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import (
    BackboneOutput,
    LivePositions,
    StreamState,
    TextKV,
    TimeEmbedding,
    Window,
)

MOST_CHUNKS = 48
"""A stream is rehearsed until its window is full twice, and no further than this."""


class ChunkShape(NamedTuple):
    """What the widest pass of a chunk handles.

    Args:
        live_frames: Frames it computes.
        context_tokens: Tokens of the window it reads.
    """

    live_frames: int
    context_tokens: int


class StreamMemory(NamedTuple):
    """Bytes of a stream at its largest.

    Args:
        window: Keys and values of cached and evicted frames that may still be read.
        anchor: What the anchor holds on top.
        text: Text embeddings and their keys and values.
        latents: Clean and part-denoised latents.
        buffers: Rotated copy of the window with room for the live frames, or, in training, the joined window.
        work: What comes and goes on top while a chunk is made, outside the backbone.
        earlier_states: What the states before the scored chunks hold together, text left out.
        chunks: The passes of every chunk, in order.
    """

    window: int
    anchor: int
    text: int
    latents: int
    buffers: int
    work: int
    earlier_states: int
    chunks: tuple[tuple[ChunkShape, ...], ...]

    @property
    def total(self) -> int:
        """Return what a stream takes beside the backbone's own work."""
        parts = (self.window, self.anchor, self.text, self.latents, self.buffers, self.work)
        return sum(parts)


def stream_memory(
    streamer: Streamer,
    precision: Precision,
    *,
    rows: int,
    latent_shape: tuple[int, int, int],
    text_tokens: int,
    text_dtype: torch.dtype = torch.float32,
    num_chunks: int | None = None,
    scored: int | None = None,
) -> StreamMemory:
    """Return what a stream takes; the streamer may be on the meta device, and is not changed.

    Args:
        streamer: Anchor, cache and schedule are run, of the backbone only its first blocks.
        precision: Of the run.
        rows: Streams in lock-step.
        latent_shape: ``(C, H, W)`` of a latent frame.
        text_tokens: Tokens of a prompt's embedding.
        text_dtype: Its numbers.
        num_chunks: Chunks of a training rollout; ``None`` is a stream without end, with its scratch memory.
        scored: Last chunks of a rollout whose states may be kept; ``None`` is all.
    """
    short = shortened(streamer.backbone, 1, precision)
    layers = streamer.backbone.num_layers
    with rehearsal(), torch.no_grad(), precision.context():
        backbone = _Hollow(on_fakes(short), layers, latent_shape)
        hollow = Streamer(
            backbone,
            anchor=streamer.anchor,
            cache=streamer.cache,
            schedule=streamer.schedule,
            noise=_NoNoise(),
        )
        text_BSD = torch.empty(rows, text_tokens, backbone.text_dim, dtype=text_dtype)
        endless = num_chunks is None
        count = _chunks_until_full(streamer) if num_chunks is None else num_chunks
        buffers = StreamBuffers() if endless else None
        with LiveBytes() as live:
            state = hollow.start(text_BSD, latent_shape=latent_shape)
            states, passes = [state], []
            for _ in range(count):
                backbone.seen = []
                state = hollow.step(state, buffers=buffers).state
                passes.append(tuple(backbone.seen))
                states = [state] if endless else [*states, state][-1 - (scored or count) :]
            return _read_out(states, live, passes, text_BSD, held_buffers=endless)


def state_bytes(state: StreamState) -> dict[str, int]:
    """Return the bytes of a state by part; what two parts share is counted in the first."""
    window = _tensors([*state.blocks, *state.history])
    anchor = _tensors(state.anchor.values())
    text = [state.texts_PBSD]
    if state.text_kv is not None:
        text += [*state.text_kv.key_LBSND, *state.text_kv.value_LBSND]
    shared = tensor_bytes(window)
    return {
        "window": shared,
        "anchor": tensor_bytes([*window, *anchor]) - shared,
        "text": tensor_bytes(text),
        "latents": tensor_bytes([state.recent_BFCHW, state.pending_BFCHW]),
    }


def _read_out(
    states: Sequence[StreamState],
    live: LiveBytes,
    passes: Sequence[tuple[ChunkShape, ...]],
    text_BSD: Tensor,
    *,
    held_buffers: bool,
) -> StreamMemory:
    parts = [state_bytes(state) for state in states]
    most = {name: max(part[name] for part in parts) for name in parts[0]}
    earlier = [part for state in states[:-1] for part in _state_tensors(state)]
    last = sum(parts[-1].values()) - tensor_bytes([text_BSD])
    buffers = max(0, live.now - last) if held_buffers else 0
    return StreamMemory(
        **most,
        buffers=buffers,
        work=max(0, live.peak - live.now),
        earlier_states=tensor_bytes(earlier),
        chunks=tuple(passes),
    )


def _state_tensors(state: StreamState) -> list[Tensor | None]:
    parts = _tensors([*state.blocks, *state.history, *state.anchor.values()])
    return [*parts, state.recent_BFCHW, state.pending_BFCHW]


def _tensors(parts: Iterable[KV]) -> list[Tensor]:
    found: list[Tensor] = []
    for kv in parts:
        found += [kv.key_LBFTND, kv.value_LBFTND, *(kv.places or ())]
    return found


def _chunks_until_full(streamer: Streamer) -> int:
    frames = streamer.cache.max_frames + streamer.anchor.num_frames + streamer.cache.history_frames
    return min(MOST_CHUNKS, 4 + 2 * frames // streamer.schedule.chunk_frames)


class _NoNoise(NoiseSource):
    """Noise of the right shape."""

    def draw(
        self, key: NoiseKey, *, seed: int, stream_ids: Sequence[int], shape_FCHW: tuple[int, ...]
    ) -> Tensor:
        """Return a tensor without memory."""
        del key, seed
        return torch.empty(len(stream_ids), *shape_FCHW)


class _Hollow(Backbone):
    """Give what a backbone of so many layers gives, in shape and dtype, and note what it was asked."""

    def __init__(self, one: Backbone, layers: int, latent_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.one = one
        self.in_channels, self.num_layers = one.in_channels, layers
        self.num_heads, self.head_dim, self.text_dim = one.num_heads, one.head_dim, one.text_dim
        self.seen: list[ChunkShape] = []
        latents = torch.empty(1, 1, *latent_shape)
        text = one.text_kv(torch.empty(1, 1, one.text_dim))
        out = one(latents, timestep_BF=torch.empty(1, 1), text=text, return_kv=True)
        self.velocity_dtype = out.velocity_BFCHW.dtype
        self.key_dtype = out.kv.key_LBFTND.dtype
        self.value_dtype = out.kv.value_LBFTND.dtype

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Ask the one block."""
        return self.one.tokens_per_frame(height, width)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Ask the one block."""
        return self.one.token_grid(height, width)

    def text_kv(self, text_BSD: Tensor) -> TextKV:
        """Repeat the one block's keys and values."""
        text = self.one.text_kv(text_BSD)
        return TextKV(
            tuple(torch.empty_like(text.key_LBSND[0]) for _ in range(self.num_layers)),
            tuple(torch.empty_like(text.value_LBSND[0]) for _ in range(self.num_layers)),
        )

    def embed_time(self, timestep_BF: Tensor) -> TimeEmbedding:
        """Ask the one block."""
        return self.one.embed_time(timestep_BF)

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
    ) -> BackboneOutput:
        """Return tensors of the right sizes."""
        del timestep_BF, text, positions, mask_FF, clean_latents_BFCHW, time
        rows, frames = latents_BFCHW.shape[:2]
        self.seen.append(ChunkShape(frames, 0 if window is None else window.num_tokens))
        height, width = latents_BFCHW.shape[-2:]
        tokens = self.tokens_per_frame(height, width)
        shape = (rows, frames * tokens, self.num_heads, self.head_dim)

        def layers(dtype: torch.dtype) -> Tensor:
            each = [latents_BFCHW.new_empty(shape, dtype=dtype) for _ in range(self.num_layers)]
            joined: Tensor = torch.stack(each).unflatten(2, (frames, -1))
            return joined

        kv = None
        if return_kv:
            frame_indices = tuple(range(frames))
            kv = KV(layers(self.key_dtype), layers(self.value_dtype), frame_indices)
        query = layers(self.key_dtype) if return_query else None
        velocity = torch.empty_like(latents_BFCHW, dtype=self.velocity_dtype)
        return BackboneOutput(velocity, kv, query)
