"""Critic loss: flow matching on the generator's own videos, so the critic follows its distribution."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from torch import Tensor

from lightning_adastate.flow import velocity_to_x0, x0_to_velocity
from lightning_adastate.losses.base import NoiseDraw, NoisingLoss, Velocity
from lightning_adastate.types import LossOutput


class CriticLoss(NoisingLoss):
    """Plain flow matching, one noise level per video, frames not weighted.

    Args:
        shift: Timestep shift, both of how timesteps are drawn and of the noise levels. Take the
            generator loss's own.
        min_timestep: Lowest timestep; lower draws are raised to it.
        max_timestep: Highest timestep.
        score_shift: Turn the velocity into x0 with this shift's levels and back with ``shift``'s, as the
            public Self-Forcing code does with 8 and 5; parity only. ``None`` takes it as it is.
    """

    def forward(
        self,
        video_BFCHW: Tensor,
        critic: Velocity,
        draw: NoiseDraw,
        *,
        given_frames: int = 0,
    ) -> LossOutput:
        """Return ``mean |velocity - (noise - video)|^2`` over the frames that were not given."""
        video = video_BFCHW.detach().float()
        noised = self.noised(video, draw, given_frames)
        velocity = critic(noised.latents_BFCHW, noised.timestep_BF).float()
        free = slice(given_frames, None)
        velocity, latents = velocity[:, free], noised.latents_BFCHW[:, free]
        if self.score_table.shift != self.table.shift:
            x0 = velocity_to_x0(
                velocity.double(), latents.double(), noised.score_sigma_BF[:, free].double()
            )
            velocity = x0_to_velocity(
                x0, latents.double(), noised.sigma_BF[:, free].double()
            ).float()
        target = (draw.noise_BFCHW - video)[:, free]
        return LossOutput((velocity - target).square().mean(), {})
