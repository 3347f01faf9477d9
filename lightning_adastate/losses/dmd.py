"""Distribution matching: move the generator's videos from where the critic sees them to the teacher's (DMD)."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_adastate.flow import velocity_to_x0
from lightning_adastate.losses.base import GeneratorLoss, Networks, Noised, NoiseDraw, Reweight
from lightning_adastate.losses.weighting import FrameWeighting, UniformWeighting
from lightning_adastate.types import LossOutput

Normaliser = Literal["per_sample", "none"]

NonFinite = Literal["keep", "zero"]
"""What becomes of a gradient that is not finite: it stays, so that training stops; or it is set to zero, as the public
code does with NaN, where a teacher of NaN looks like one that is content."""


def dmd_gradient(
    video_BFCHW: Tensor,
    teacher_x0_BFCHW: Tensor,
    critic_x0_BFCHW: Tensor,
    *,
    given_frames: int = 0,
    normaliser: Normaliser = "per_sample",
) -> Tensor:
    """Return the direction to descend, ``(critic - teacher) / mean |video - teacher|``, in float64.

    The mean is one number per sample, over all frames that were not given: so frame weights must be
    applied afterwards, or it would undo them. A video that is the teacher's answer has no direction, and gets zero.

    Paper: DMD (arXiv 2311.18828, Eq. 8).
    """
    video, teacher = video_BFCHW.double(), teacher_x0_BFCHW.double()
    gradient = critic_x0_BFCHW.double() - teacher
    if normaliser == "none":
        return gradient
    distance = (video - teacher)[:, given_frames:].abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    return divided(gradient, distance)


def divided(value: Tensor, distance: Tensor) -> Tensor:
    """Return ``value / distance``, and zero where the distance is; what is not finite stays so."""
    apart = distance != 0.0
    return value * apart / torch.where(apart, distance, torch.ones_like(distance))


def without_non_finite(value: Tensor, rule: NonFinite) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the value under a rule for what is not finite, and what of that is to be logged."""
    if rule == "keep":
        return value, {}
    count = (~value.isfinite()).sum()
    return torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0), {"non_finite": count.float()}


def dmd_loss(
    video_BFCHW: Tensor, gradient_BFCHW: Tensor, weights_BF: Tensor, *, given_frames: int = 0
) -> Tensor:
    """Return ``mean_f w_f 1/2 |video - stopgrad(video - gradient)|^2`` over generated frames, in float64.

    Its gradient at an element is ``w_f gradient / (number of generated elements)``.
    """
    video = video_BFCHW.double()
    target = (video - gradient_BFCHW).detach()
    squares = (video - target).square() * weights_BF.double()[:, :, None, None, None]
    return 0.5 * squares[:, given_frames:].mean()


class DMDLoss(GeneratorLoss):
    """Distribution matching distillation as Self-Forcing uses it (arXiv 2506.08009), with frame weights.

    Args:
        weighting: Weight of every frame; ``None`` is ``UniformWeighting``.
        guidance: Teacher's x0 is ``cond + guidance (cond - uncond)``: 3 is what others call 4. 0 evaluates the
            teacher once and needs no negative prompt.
        normaliser: ``per_sample`` divides by the mean distance of video and teacher.
        shift: Timestep shift, both of how timesteps are drawn and of the noise levels.
        min_timestep: Lowest timestep; lower draws are raised to it.
        max_timestep: Highest timestep.
        score_shift: Shift of the table with which a velocity becomes x0. ``None`` is ``shift``. The
            public Self-Forcing code noises with shift 5 and converts with 8; parity only.
        non_finite: ``keep`` lets a gradient that is not finite stop the training. ``zero`` sets it to zero, as
            the public code does, and logs how many numbers that were (``train/non_finite``); parity only.
    """

    def __init__(
        self,
        weighting: FrameWeighting | None = None,
        *,
        guidance: float = 3.0,
        normaliser: Normaliser = "per_sample",
        shift: float = 5.0,
        min_timestep: float = 20.0,
        max_timestep: float = 980.0,
        score_shift: float | None = None,
        non_finite: NonFinite = "keep",
    ) -> None:
        super().__init__(
            shift=shift,
            min_timestep=min_timestep,
            max_timestep=max_timestep,
            score_shift=score_shift,
        )
        self.weighting = UniformWeighting() if weighting is None else weighting
        self.guidance = guidance
        self.normaliser: Normaliser = normaliser
        self.non_finite: NonFinite = non_finite

    @property
    def uses_negative(self) -> bool:
        """Whether guidance needs the negative prompt."""
        return self.guidance != 0.0

    def forward(
        self,
        video_BFCHW: Tensor,
        networks: Networks,
        draw: NoiseDraw,
        *,
        given_frames: int = 0,
        reweight: Reweight | None = None,
    ) -> LossOutput:
        """Return the loss whose gradient at the video is the weighted DMD gradient."""
        video = video_BFCHW.detach()
        with torch.no_grad():
            teacher_x0, critic_x0 = self.scores(video, networks, draw, given_frames)
            weights = self.weights(video, reweight)
        return self.surrogate(
            video_BFCHW, teacher_x0, critic_x0, weights, given_frames=given_frames
        )

    def surrogate(
        self,
        video_BFCHW: Tensor,
        teacher_x0_BFCHW: Tensor,
        critic_x0_BFCHW: Tensor,
        weights_BF: Tensor,
        *,
        given_frames: int,
    ) -> LossOutput:
        """Return the loss whose gradient at the video is the weighted DMD gradient of those answers."""
        gradient = dmd_gradient(
            video_BFCHW.detach(),
            teacher_x0_BFCHW,
            critic_x0_BFCHW,
            given_frames=given_frames,
            normaliser=self.normaliser,
        )
        gradient, counted = without_non_finite(gradient, self.non_finite)
        loss = dmd_loss(video_BFCHW, gradient, weights_BF, given_frames=given_frames)
        free = gradient[:, given_frames:]
        return LossOutput(loss, {"dmd_gradient": free.square().mean().sqrt().float(), **counted})

    def scores(
        self, video_BFCHW: Tensor, networks: Networks, draw: NoiseDraw, given_frames: int
    ) -> tuple[Tensor, Tensor]:
        """Return what teacher (guided) and critic take the noised video for, float64 each."""
        noised = self.noised(video_BFCHW, draw, given_frames)
        latents, timestep = noised.latents_BFCHW, noised.timestep_BF
        critic_x0 = _x0(networks.critic(latents, timestep), noised)
        teacher_x0 = _x0(networks.teacher(latents, timestep), noised)
        if self.uses_negative:
            assert networks.negative is not None, "guidance needs the negative prompt"
            negative_x0 = _x0(networks.negative(latents, timestep), noised)
            teacher_x0 = teacher_x0 + self.guidance * (teacher_x0 - negative_x0)
        return teacher_x0, critic_x0

    def weights(self, video_BFCHW: Tensor, reweight: Reweight | None) -> Tensor:
        """Return the frame weights ``[B, F]``: the weighting's, then the user's."""
        rows, frames = video_BFCHW.shape[:2]
        index = torch.arange(frames, device=video_BFCHW.device)
        weights = self.weighting(index, frames).to(video_BFCHW.device).expand(rows, frames)
        return weights if reweight is None else reweight(weights, video_BFCHW)


def _x0(velocity_BFCHW: Tensor, noised: Noised) -> Tensor:
    """Turn velocity into x0 in float64, with the networks' own noise levels."""
    latents, sigma = noised.latents_BFCHW.double(), noised.score_sigma_BF.double()
    return velocity_to_x0(velocity_BFCHW.double(), latents, sigma)
