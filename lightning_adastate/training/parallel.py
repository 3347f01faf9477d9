"""All chunks of a clip in one forward, under the mask of what a stream would see, and the teacher's ODE on it."""

# Shapes: B batch, K kept states, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_adastate.backbones import Backbone
from lightning_adastate.backbones.masks import diffusion_forcing_mask, teacher_forcing_mask
from lightning_adastate.flow import NUM_TIMESTEPS, shift_sigma
from lightning_adastate.losses import Velocity
from lightning_adastate.schedules import Schedule
from lightning_adastate.schedules.base import denoise_passes
from lightning_adastate.streaming.streamer import Streamer

Reads = Literal["window", "all"]
"""How far back a chunk sees: what the cache keeps beside a full anchor, or everything."""

Context = Literal["noisy", "clean"]
"""The past a chunk sees: the clip's own noisy chunks (diffusion forcing), or clean ones (teacher forcing)."""

SAME_LEVEL = 1e-4
"""Noise levels nearer than this are one level of a grid."""


def causal_mask(streamer: Streamer, num_frames: int, context: Context, reads: Reads) -> Tensor:
    """Return the mask of a clip of whole chunks, ``[F, F]``, or ``[2F, 2F]`` with a clean context.

    An anchor is not shown: what the window has lost is lost here too.
    """
    chunks = streamer.schedule.chunks_of(num_frames)
    window = None
    if reads == "window":
        anchor_frames = streamer.anchor.num_frames
        window = streamer.cache.capacity(num_new=0, anchor_frames=anchor_frames)
    if context == "clean":
        return teacher_forcing_mask(chunks, window_frames=window)
    return diffusion_forcing_mask(chunks, window_frames=window)


def masked_velocity(
    network: Backbone,
    text_BSD: Tensor,
    mask_FF: Tensor | None = None,
    clean_BFCHW: Tensor | None = None,
) -> Velocity:
    """Bind prompts, mask and clean context to a network: latents and timesteps to velocity."""
    text = network.text_kv(text_BSD)

    def velocity(latents_BFCHW: Tensor, timestep_BF: Tensor) -> Tensor:
        out: Tensor = network(
            latents_BFCHW,
            timestep_BF=timestep_BF,
            text=text,
            mask_FF=mask_FF,
            clean_latents_BFCHW=clean_BFCHW,
        ).velocity_BFCHW
        return out.to(latents_BFCHW.dtype)

    return velocity


def guided(positive: Velocity, negative: Velocity | None, guidance: float) -> Velocity:
    """Return ``negative + guidance (positive - negative)``; without a negative one, ``positive``."""
    if negative is None:
        return positive

    def velocity(latents_BFCHW: Tensor, timestep_BF: Tensor) -> Tensor:
        other = negative(latents_BFCHW, timestep_BF)
        return other + guidance * (positive(latents_BFCHW, timestep_BF) - other)

    return velocity


def stream_sigmas(schedule: Schedule) -> tuple[float, ...]:
    """Return every noise level at which the schedule denoises, in chunk 0 or later, falling."""
    passes = denoise_passes([*schedule.passes(0), *schedule.passes(1)])
    return tuple(sorted({one.sigma for one in passes}, reverse=True))


def ode_sigmas(steps: int, shift: float, stops: Sequence[float]) -> tuple[float, ...]:
    """Return levels falling from 1 to 0: ``steps`` equal steps before the shift, and all ``stops``.

    A level that is nearly a stop gives way to it, so 48 steps and a few-step list of the same shift
    make 48 steps.

    >>> ode_sigmas(2, 1.0, (1.0, 0.75))
    (1.0, 0.75, 0.5, 0.0)
    """
    grid = shift_sigma(torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64), shift).tolist()
    kept = [s for s in grid if all(abs(s - stop) > SAME_LEVEL for stop in stops)]
    return tuple(sorted({*kept, *stops}, reverse=True))


@torch.no_grad()
def solve_ode(
    velocity: Velocity,
    noisy_BFCHW: Tensor,
    sigmas: Sequence[float],
    keep: Sequence[float],
    given_frames: int = 0,
) -> Tensor:
    """Follow a velocity from noise to a clean clip by Euler steps.

    Args:
        velocity: The teacher, bound to its prompts.
        noisy_BFCHW: The clip at the first level; its given frames are clean.
        sigmas: Levels, falling to 0.
        keep: Those whose states are returned.
        given_frames: First frames that stay as they are, at timestep 0.

    Returns:
        The states at the kept levels, then the clean end, ``[B, K + 1, F, C, H, W]``.
    """
    x = noisy_BFCHW
    free_F = (torch.arange(x.shape[1], device=x.device) >= given_frames).to(x.dtype)
    states = []
    for now, after in itertools.pairwise(sigmas):
        if now in keep:
            states.append(x)
        timestep_BF = (free_F * now * NUM_TIMESTEPS).expand(x.shape[0], -1)
        step_F = free_F * (after - now)
        x = x + step_F[None, :, None, None, None] * velocity(x, timestep_BF)
    return torch.stack([*states, x], dim=1)
