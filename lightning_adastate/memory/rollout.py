"""What a rollout with a graph takes of memory, and what the losses on it take beside the networks."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.losses import CriticLoss, GeneratorLoss, Networks
from lightning_adastate.losses.base import NoiseDraw
from lightning_adastate.memory.parts import Sizes, text_dtype
from lightning_adastate.memory.passes import (
    LiveBytes,
    PassMemory,
    PassShape,
    Precision,
    pass_memory,
    rehearsal,
)
from lightning_adastate.memory.stream import ChunkShape, StreamMemory, stream_memory
from lightning_adastate.rollouts import NoisedData, Rollouts
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.training import SelfForcing
from lightning_adastate.training.base import StreamModule


class GraphMemory(NamedTuple):
    """Bytes of several passes with a graph: held once, by all, by the largest, and work on top."""

    once: int
    whole: int
    last: int
    work: int


class RolloutMemory(NamedTuple):
    """Bytes of a rollout.

    Args:
        graph: Of the passes that learn.
        state: The stream, text included.
        window: The part of ``state`` that earlier states share.
        earlier_states: What the states before the chunks that learn hold together.
        carried: What the next rollout goes on from.
        plain_work: What comes and goes in a pass without a graph, and while a chunk is closed.
    """

    graph: GraphMemory
    state: int
    window: int
    earlier_states: int
    carried: int
    plain_work: int


def rollout_memory(module: SelfForcing, sizes: Sizes, precision: Precision) -> RolloutMemory:
    """Return what the generator's rollout takes."""
    return _memory_of(module.rollouts, module, sizes, precision)


@singledispatch
def _memory_of(
    rollouts: Rollouts, module: SelfForcing, sizes: Sizes, precision: Precision
) -> RolloutMemory:
    """ChunkRecompute the last chunks of the longest stream: there the window is fullest."""
    streamer = module.generator
    schedule = streamer.schedule
    longest = getattr(rollouts, "max_frames", None) or sizes.num_frames
    chunks = len(schedule.chunks_of(longest))
    scored = len(schedule.chunks_of(sizes.num_frames))
    if module.context_frames:
        scored -= len(schedule.chunks_of(module.context_frames))
    stream = training_stream(module, streamer, sizes, precision, chunks, scored)
    # The pass that learns is any denoise pass; where several chunks are denoised together, the windows
    # that learn do not overlap.
    learning = [_widest(chunk) for chunk in stream.chunks[-scored:]][:: schedule.num_ahead + 1]
    graph = graph_of_passes(module, streamer, learning, sizes, precision)
    if module.kv_gradient in ("state", "all"):  # the clean pass has a graph too
        graph = graph._replace(whole=2 * graph.whole, last=2 * graph.last)
    shape = _pass_shape(module, max(learning, key=_size), sizes)
    plain = pass_memory(streamer.backbone, shape, precision, "none")
    window = stream.window + stream.anchor + stream.latents
    return RolloutMemory(
        graph=graph,
        state=window + stream.text,
        window=window,
        earlier_states=stream.earlier_states,
        carried=window if rollouts.is_persistent else 0,
        plain_work=plain.work + stream.work,
    )


@_memory_of.register
def _(
    rollouts: NoisedData, module: SelfForcing, sizes: Sizes, precision: Precision
) -> RolloutMemory:
    """ChunkRecompute one parallel pass over the clip; there is no stream."""
    del rollouts
    shape = PassShape(
        (sizes.batch, sizes.num_frames, *sizes.latent_shape),
        text_tokens=module.text_encoder.max_tokens,
        masked=True,
    )
    backbone = module.generator.backbone
    memory = pass_memory(backbone, shape, precision, "weights")
    graph = GraphMemory(memory.once, memory.each, memory.each, memory.work)
    plain = pass_memory(backbone, shape, precision, "none")
    return RolloutMemory(graph, 0, 0, 0, 0, plain.work)


def training_stream(
    module: StreamModule,
    streamer: Streamer,
    sizes: Sizes,
    precision: Precision,
    num_chunks: int,
    scored: int,
) -> StreamMemory:
    """Return what the stream of a training rollout takes."""
    return stream_memory(
        streamer,
        precision,
        rows=sizes.batch,
        latent_shape=sizes.latent_shape,
        text_tokens=module.text_encoder.max_tokens,
        text_dtype=text_dtype(module.text_encoder),
        num_chunks=num_chunks,
        scored=scored,
    )


def graph_of_passes(
    module: StreamModule,
    streamer: Streamer,
    passes: Sequence[ChunkShape],
    sizes: Sizes,
    precision: Precision,
) -> GraphMemory:
    """Return what passes with a graph take; the fewest and the most context are run for each width."""
    found: dict[ChunkShape, PassMemory] = {}
    for width in {each.live_frames for each in passes}:
        alike = [each for each in passes if each.live_frames == width]
        for each in {min(alike, key=_size), max(alike, key=_size)}:
            shape = _pass_shape(module, each, sizes)
            found[each] = pass_memory(streamer.backbone, shape, precision, "weights")
    held = [
        interpolate(
            [
                (shape.context_tokens, memory.each)
                for shape, memory in found.items()
                if shape.live_frames == one.live_frames
            ],
            one.context_tokens,
        )
        for one in passes
    ]
    most = found[max(found, key=_size)]
    return GraphMemory(most.once, sum(held), max(held), max(m.work for m in found.values()))


def _pass_shape(module: StreamModule, one: ChunkShape, sizes: Sizes) -> PassShape:
    shape = (sizes.batch, one.live_frames, *sizes.latent_shape)
    return PassShape(shape, one.context_tokens, module.text_encoder.max_tokens)


def _size(one: ChunkShape) -> tuple[int, int]:
    return one.live_frames, one.context_tokens


def _widest(passes: Sequence[ChunkShape]) -> ChunkShape:
    """Return the widest pass of a chunk but for its last, the clean one."""
    return max(passes[:-1] or passes, key=_size)


class LossMemory(NamedTuple):
    """A loss's own bytes, and whether it goes back through the networks that it asks."""

    work: int
    through_networks: bool


def loss_memory(
    loss: GeneratorLoss | CriticLoss, shape_BFCHW: tuple[int, int, int, int, int]
) -> LossMemory:
    """Return what a loss takes beside the networks, which are played by one that answers at once."""
    through = False

    def answer(latents_BFCHW: Tensor, timestep_BF: Tensor) -> Tensor:
        nonlocal through
        del timestep_BF
        through = through or (latents_BFCHW.requires_grad and torch.is_grad_enabled())
        return latents_BFCHW * 1.0

    with rehearsal():
        video = torch.empty(shape_BFCHW, requires_grad=True)
        with LiveBytes() as live:
            draw = NoiseDraw(torch.empty(shape_BFCHW[0]), torch.empty(shape_BFCHW))
            if isinstance(loss, GeneratorLoss):
                out = loss(video, Networks(answer, answer, answer), draw)
            else:
                out = loss(video, answer, draw)
            if out.loss.requires_grad:
                torch.autograd.grad(out.loss, video)
            return LossMemory(live.peak, through)


def video_bytes(sizes: Sizes) -> int:
    """Return the bytes of a batch of videos' latents."""
    channels, height, width = sizes.latent_shape
    pixels = channels * height * width
    return sizes.batch * sizes.num_frames * pixels * torch.float32.itemsize


def interpolate(memories: Sequence[tuple[int, int]], at: int) -> int:
    """Return bytes at ``at`` context tokens from those at the fewest and the most; they are affine."""
    (low, less), (high, more) = min(memories), max(memories)
    return less if high == low else less + (more - less) * (at - low) // (high - low)
