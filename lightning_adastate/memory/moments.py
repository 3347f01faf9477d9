"""What comes and goes in a training step of every stage."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import NamedTuple

from lightning_adastate.memory.parts import Line, Sizes, encoding
from lightning_adastate.memory.passes import Graph, PassMemory, PassShape, Precision, pass_memory
from lightning_adastate.memory.rollout import (
    RolloutMemory,
    graph_of_passes,
    loss_memory,
    rollout_memory,
    training_stream,
    video_bytes,
)
from lightning_adastate.training import (
    CausalFlowMatching,
    ConsistencyDistillation,
    FlowMatching,
    ODERegression,
    SelfForcing,
)
from lightning_adastate.training.base import StreamModule

BESIDE = 4
"""Videos in latents beside a pass: clean, noise, noised, answer or gradient."""


class Moments(NamedTuple):
    """The moments of a training step.

    Args:
        lines: As it is configured.
        by_chunks: With ``backward: chunks``, where that is possible and not so already.
    """

    lines: tuple[Line, ...]
    by_chunks: tuple[Line, ...] | None = None


@singledispatch
def moments_of(
    module: StreamModule, sizes: Sizes, precision: Precision, gradients: Mapping[str, int]
) -> Moments:
    """Return the moments of a training step.

    Args:
        module: The stage, on the meta device.
        sizes: Of the run.
        precision: Of the run.
        gradients: Bytes of the gradients of every network that learns and has them for a while only.

    Raises:
        ValueError: If the stage is not known.
    """
    del sizes, precision, gradients
    raise ValueError(
        f"`plan` does not know the training step of {type(module).__name__}; use `--phase generate`"
    )


class Asked(NamedTuple):
    """What SelfForcing's networks and losses take: without their weights and gradients.

    Args:
        rollout: The generator's passes and stream.
        answers: Held while teacher and critic score, prompts included.
        scoring: What comes and goes meanwhile.
        learning: The critic's pass over the video.
        videos: Videos in latents.
        critic_work: What the critic's loss takes at most.
    """

    rollout: RolloutMemory
    answers: int
    scoring: int
    learning: PassMemory
    videos: int
    critic_work: int


@moments_of.register
def _(
    module: SelfForcing, sizes: Sizes, precision: Precision, gradients: Mapping[str, int]
) -> Moments:
    asked = _asked(module, sizes, precision)
    frames = module.rollouts.clip_frames(sizes.num_frames, module.context_frames)
    clips = _encoding(module, sizes, precision, frames)
    by_chunks = (*_lines(asked, precision, gradients, by_chunks=True), *clips)
    if module.backward_by == "chunks":
        return Moments(by_chunks)
    whole = (*_lines(asked, precision, gradients, by_chunks=False), *clips)
    return Moments(whole, by_chunks if module.kv_gradient == "detach" else None)


def _asked(module: SelfForcing, sizes: Sizes, precision: Precision) -> Asked:
    assert module.teacher is not None
    assert module.critic is not None
    clip = _clip(module, sizes)
    loss = loss_memory(module.loss, clip.latents_BFCHW)
    how: Graph = "inputs" if loss.through_networks else "none"
    teacher = pass_memory(module.teacher, clip, precision, how)
    critic = pass_memory(module.critic, clip, precision, how)
    prompts = 2 if module.loss.uses_negative else 1
    return Asked(
        rollout=rollout_memory(module, sizes, precision),
        answers=prompts * (teacher.once + teacher.each) + critic.once + critic.each,
        scoring=max(teacher.work, critic.work, loss.work),
        learning=pass_memory(module.critic, clip, precision, "weights"),
        videos=BESIDE * video_bytes(sizes),
        critic_work=loss_memory(module.critic_loss, clip.latents_BFCHW).work,
    )


def _lines(
    asked: Asked, precision: Precision, gradients: Mapping[str, int], *, by_chunks: bool
) -> tuple[Line, ...]:
    """Return rollout, scores and critic's step."""
    made, graph, learning = asked.rollout, asked.rollout.graph, asked.learning
    casts = graph.once if precision.name.endswith("mixed") else 0
    takes = made.earlier_states if by_chunks else 0
    rolling = made.state + max(0, takes - made.window) + graph.once
    rolling += graph.last if by_chunks else graph.whole
    rolling += max(graph.work, made.plain_work) + gradients.get("generator", 0)
    scoring = takes + made.carried + asked.answers + asked.scoring
    scoring += casts if by_chunks else graph.once + graph.whole
    critic = made.carried + casts + gradients.get("critic", 0)
    critic += learning.once + learning.each + max(learning.work, asked.critic_work)
    what = "graph of one chunk" if by_chunks else "graphs of all chunks"
    return (
        Line("rollout and backward pass", rolling + asked.videos, what),
        Line("scores", scoring + asked.videos, "teacher and critic"),
        Line("critic's step", critic + asked.videos, "its graph over the video"),
    )


def _clip(module: StreamModule, sizes: Sizes) -> PassShape:
    shape = (sizes.batch, sizes.num_frames, *sizes.latent_shape)
    return PassShape(shape, 0, module.text_encoder.max_tokens)


def _encoding(
    module: StreamModule, sizes: Sizes, precision: Precision, frames: int
) -> Sequence[Line]:
    if not frames:
        return []
    work = encoding(module.codec, precision, sizes.latent_shape, sizes.batch, frames)
    return [Line("encoding the clips", work, "codec, pixels included")]


def _parallel(memory: PassMemory, sizes: Sizes, note: str, beside: int = 0) -> Line:
    """Return the moment of one pass with a graph over whole clips: latents, noise, target, error beside."""
    return Line(
        "forward and backward pass", sum(memory) + beside + BESIDE * video_bytes(sizes), note
    )


@moments_of.register
def _(
    module: FlowMatching, sizes: Sizes, precision: Precision, gradients: Mapping[str, int]
) -> Moments:
    del gradients
    shape = _clip(module, sizes)._replace(
        masked=module.mode != "bidirectional", clean_context=module.mode == "teacher_forcing"
    )
    memory = pass_memory(module.generator.backbone, shape, precision, "weights")
    clips = _encoding(module, sizes, precision, sizes.num_frames)
    return Moments((_parallel(memory, sizes, module.mode), *clips))


@moments_of.register
def _(
    module: ODERegression, sizes: Sizes, precision: Precision, gradients: Mapping[str, int]
) -> Moments:
    del gradients
    shape = _clip(module, sizes)._replace(masked=True, clean_context=module.context == "clean")
    memory = pass_memory(module.generator.backbone, shape, precision, "weights")
    levels = {one.sigma for chunk in (0, 1) for one in module.generator.schedule.passes(chunk)}
    states = (len(levels) + 1) * video_bytes(sizes)
    return Moments((_parallel(memory, sizes, f"{module.context} context", states),))


@moments_of.register
def _(
    module: ConsistencyDistillation,
    sizes: Sizes,
    precision: Precision,
    gradients: Mapping[str, int],
) -> Moments:
    del gradients
    assert module.teacher is not None
    shape = _clip(module, sizes)._replace(masked=True, clean_context=True)
    teacher = pass_memory(module.teacher, shape, precision, "none")
    average = pass_memory(module.streamer.backbone, shape, precision, "none")
    learning = pass_memory(module.generator.backbone, shape, precision, "weights")
    prompts = 1 if module.guidance == 1.0 else 2
    text = prompts * teacher.once + average.once
    asking = learning.once + text + max(teacher.work, average.work)
    asking += BESIDE * video_bytes(sizes)
    lines = (
        _parallel(learning, sizes, "student, clean past", average.once),
        Line("teacher and average", asking, "without a graph"),
    )
    return Moments((*lines, *_encoding(module, sizes, precision, sizes.num_frames)))


@moments_of.register
def _(
    module: CausalFlowMatching, sizes: Sizes, precision: Precision, gradients: Mapping[str, int]
) -> Moments:
    del gradients
    streamer = module.generator
    chunks = len(streamer.schedule.chunks_of(sizes.num_frames))
    stream = training_stream(module, streamer, sizes, precision, chunks, chunks)
    # The first pass of a chunk of the stream is like the noised one; so is the clean one.
    passes = [each for chunk in stream.chunks for each in (chunk[0], chunk[-1])]
    graph = graph_of_passes(module, streamer, passes, sizes, precision)
    held = graph.once + graph.whole + graph.work + stream.earlier_states + stream.window
    line = Line(
        "forward and backward pass", held + BESIDE * video_bytes(sizes), "two passes per chunk"
    )
    return Moments((line, *_encoding(module, sizes, precision, sizes.num_frames)))
