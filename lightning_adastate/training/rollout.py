"""A training rollout: the very step that streaming uses, left early, with a graph."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.schedules import Schedule
from lightning_adastate.streamer import KVGradient, Streamer
from lightning_adastate.types import StreamState


class Rollout(NamedTuple):
    """A generated video with its given frames, and the denoise pass its chunks were left at."""

    video_BFCHW: Tensor
    exit_step: int


def generated_chunks(schedule: Schedule, num_frames: int, context_frames: int) -> int:
    """Return how many chunks of a rollout are generated.

    Raises:
        ValueError: If the frames are no whole chunks, or all of them are given.
    """
    chunks = len(schedule.chunks_of(num_frames))
    if context_frames:
        chunks -= len(schedule.chunks_of(context_frames))
    if chunks < 1:
        raise ValueError(
            f"`context_frames` {context_frames} leaves nothing of `num_frames` {num_frames} to "
            "generate"
        )
    return chunks


def last_pass(schedule: Schedule, chunk: int) -> int:
    """Return the index of a chunk's last denoise pass."""
    return sum(how.kind == "denoise" for how in schedule.passes(chunk)) - 1


def roll_out(
    streamer: Streamer,
    state: StreamState,
    given_BFCHW: Tensor | None,
    num_chunks: int,
    *,
    exit_of: Callable[[int], int],
    kv_gradient: KVGradient,
) -> Rollout:
    """Generate ``num_chunks`` chunks behind given frames, whose keys and values are constants.

    Args:
        streamer: Who generates.
        state: A stream that has just begun.
        given_BFCHW: Clean first frames, whole chunks, or ``None``.
        num_chunks: Chunks to generate.
        exit_of: The pass at which chunks like that one are left. Asked once for chunk 0 if that has
            passes of its own (Causal Forcing), and once for all others.
        kv_gradient: What cached keys and values pass back between chunks.
    """
    parts = []
    if given_BFCHW is not None:
        parts.append(given_BFCHW)
        with torch.no_grad():
            state = streamer.prefill(state, given_BFCHW)
    exit_step = 0
    for first, count in _alike(streamer.schedule, state.chunk, num_chunks):
        exit_step = exit_of(first)
        latents, state = streamer.rollout(
            state, count, exit_step=exit_step, kv_gradient=kv_gradient
        )
        parts.append(latents)
    return Rollout(torch.cat(parts, dim=1), exit_step)


def _alike(schedule: Schedule, chunk: int, num_chunks: int) -> list[tuple[int, int]]:
    """Split the chunks to generate into runs of equal passes: (first chunk, count)."""
    first, rest = (len(schedule.passes(index)) for index in (0, 1))
    if chunk > 0 or first == rest or num_chunks == 1:
        return [(chunk, num_chunks)]
    return [(0, 1), (1, num_chunks - 1)]
