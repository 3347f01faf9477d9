"""The contract of a loss on a rolled-out video: it evaluates networks and knows none of them."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_adastate.flow import NUM_TIMESTEPS, SigmaTable, add_noise, shift_sigma
from lightning_adastate.types import LossOutput

Velocity = Callable[[Tensor, Tensor], Tensor]
"""A network with its prompt: noisy latents ``[B, F, C, H, W]`` and timesteps ``[B, F]`` to velocity."""

Reweight = Callable[[Tensor, Tensor], Tensor]
"""Frame weights ``[B, F]`` and the video ``[B, F, C, H, W]`` to new frame weights: the user's hook."""


class Networks(NamedTuple):
    """What a loss may evaluate.

    Args:
        teacher: The frozen teacher with the prompt.
        negative: The teacher with the negative prompt, for guidance; ``None`` where there is none.
        critic: The critic with the prompt; it follows the generator's own distribution.
    """

    teacher: Velocity
    negative: Velocity | None
    critic: Velocity


class NoiseDraw(NamedTuple):
    """A noise level per sample, ``[B]`` in [0, 1000], and the noise itself."""

    timestep_B: Tensor
    noise_BFCHW: Tensor


class Noised(NamedTuple):
    """A video at its noise levels. Given frames stay clean: timestep 0, sigma 0.

    Args:
        latents_BFCHW: What the networks see.
        timestep_BF: Their timesteps.
        sigma_BF: Noise levels of ``latents_BFCHW``, from the loss's own table.
        score_sigma_BF: Levels with which the networks' velocities become x0.
    """

    latents_BFCHW: Tensor
    timestep_BF: Tensor
    sigma_BF: Tensor
    score_sigma_BF: Tensor


class NoisingLoss(nn.Module):
    """Share how a video is noised before a loss looks at it.

    Args:
        shift: Timestep shift, both of how timesteps are drawn and of the noise levels.
        min_timestep: Lowest timestep; lower draws are raised to it.
        max_timestep: Highest timestep.
        score_shift: Shift of the table with which a velocity becomes x0. ``None`` is ``shift``. The
            public Self-Forcing code noises with shift 5 and converts with 8; parity only.

    Raises:
        ValueError: If a shift is not positive or the timesteps are not an interval in [0, 1000].
    """

    def __init__(
        self,
        *,
        shift: float = 5.0,
        min_timestep: float = 20.0,
        max_timestep: float = 980.0,
        score_shift: float | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= min_timestep < max_timestep <= NUM_TIMESTEPS:
            raise ValueError(
                "`min_timestep` and `max_timestep` must be an interval in [0, 1000], "
                f"got {min_timestep} and {max_timestep}"
            )
        self.table = SigmaTable(shift)
        self.score_table = SigmaTable(shift if score_shift is None else score_shift)
        self.min_timestep = min_timestep
        self.max_timestep = max_timestep

    def timestep_of(self, index_B: Tensor) -> Tensor:
        """Return the shifted and clamped timesteps of uniform integers in [0, 1000)."""
        shifted = shift_sigma(index_B.float() / NUM_TIMESTEPS, self.table.shift) * NUM_TIMESTEPS
        return shifted.clamp(self.min_timestep, self.max_timestep)

    def draw(self, video_BFCHW: Tensor, generator: torch.Generator) -> NoiseDraw:
        """Draw one timestep per sample and noise, on the CPU, and move them to the video."""
        index = torch.randint(0, NUM_TIMESTEPS, (video_BFCHW.shape[0],), generator=generator)
        noise = torch.randn(video_BFCHW.shape, generator=generator, dtype=torch.float32)
        device = video_BFCHW.device
        return NoiseDraw(self.timestep_of(index).to(device), noise.to(device))

    def noised(self, video_BFCHW: Tensor, draw: NoiseDraw, given_frames: int) -> Noised:
        """Noise a video, all but its first ``given_frames``, to the level of ``draw``."""
        frames = video_BFCHW.shape[1]
        free_F = torch.arange(frames, device=video_BFCHW.device) >= given_frames
        sigma_B = self.table.sigma_at(draw.timestep_B)
        score_sigma_B = self.score_table.sigma_at(draw.timestep_B)
        sigma_BF = sigma_B[:, None] * free_F
        return Noised(
            add_noise(video_BFCHW.float(), draw.noise_BFCHW, sigma_BF),
            draw.timestep_B[:, None] * free_F,
            sigma_BF,
            score_sigma_B[:, None] * free_F,
        )


class GeneratorLoss(NoisingLoss, ABC):
    """Score a rolled-out video. The gradient reaches the generator through ``video_BFCHW`` alone."""

    @property
    @abstractmethod
    def uses_negative(self) -> bool:
        """Whether ``Networks.negative`` is needed."""

    @abstractmethod
    def forward(
        self,
        video_BFCHW: Tensor,
        networks: Networks,
        draw: NoiseDraw,
        *,
        given_frames: int = 0,
        reweight: Reweight | None = None,
    ) -> LossOutput:
        """Return the loss of a rollout.

        Args:
            video_BFCHW: The rollout's content latents with their graph, ``[B, F, C, H, W]``.
            networks: What may be evaluated.
            draw: Noise level and noise, from ``draw``.
            given_frames: First frames that were given and not generated: the networks see them clean at
                timestep 0, and they carry no loss.
            reweight: Last word on the frame weights.
        """
