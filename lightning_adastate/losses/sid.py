"""Score identity distillation: differentiate through teacher and critic (SiD, arXiv 2404.04057)."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adastate.losses.base import Networks, NoiseDraw, Reweight
from lightning_adastate.losses.dmd import DMDLoss, Normaliser
from lightning_adastate.losses.weighting import FrameWeighting
from lightning_adastate.types import LossOutput


def sid_elements(
    video_BFCHW: Tensor,
    teacher_x0_BFCHW: Tensor,
    critic_x0_BFCHW: Tensor,
    *,
    alpha: float,
    given_frames: int = 0,
    normaliser: Normaliser = "per_sample",
) -> Tensor:
    """Return ``(r - f) ((r - x) - alpha (r - f))`` with teacher r and critic f, in float64.

    It is divided by the sample's mean distance of video and teacher, through which no gradient flows.
    """
    video, teacher = video_BFCHW.double(), teacher_x0_BFCHW.double()
    apart = teacher - critic_x0_BFCHW.double()
    elements = apart * ((teacher - video) - alpha * apart)
    if normaliser == "per_sample":
        distance = (video - teacher)[:, given_frames:].detach().abs()
        elements = elements / distance.mean(dim=(1, 2, 3, 4), keepdim=True)
    return elements


class SiDLoss(DMDLoss):
    """Score identity distillation, in the form of the Self-Forcing repository (its own does not run).

    Unlike in DMD the gradient flows through both networks' answers to the noised video, so it costs
    their backward passes; their parameters get none.

    Args:
        weighting: Weight of every frame; ``None`` is ``UniformWeighting``.
        alpha: Weight of the squared distance of both answers that is taken off.
        guidance: As in ``DMDLoss``.
        normaliser: ``per_sample`` divides by the mean distance of video and teacher.
        shift: Timestep shift, both of how timesteps are drawn and of the noise levels.
        min_timestep: Lowest timestep; lower draws are raised to it.
        max_timestep: Highest timestep.
        score_shift: Shift of the table with which a velocity becomes x0; parity only.
    """

    def __init__(
        self,
        weighting: FrameWeighting | None = None,
        *,
        alpha: float = 1.0,
        guidance: float = 3.0,
        normaliser: Normaliser = "per_sample",
        shift: float = 5.0,
        min_timestep: float = 20.0,
        max_timestep: float = 980.0,
        score_shift: float | None = None,
    ) -> None:
        super().__init__(
            weighting,
            guidance=guidance,
            normaliser=normaliser,
            shift=shift,
            min_timestep=min_timestep,
            max_timestep=max_timestep,
            score_shift=score_shift,
        )
        self.alpha = alpha

    def forward(
        self,
        video_BFCHW: Tensor,
        networks: Networks,
        draw: NoiseDraw,
        *,
        given_frames: int = 0,
        reweight: Reweight | None = None,
    ) -> LossOutput:
        """Return the loss; its gradient at the video is taken here, so that no network's parameter gets any.

        Without gradients (validation) it is the value alone.
        """
        weights = self.weights(video_BFCHW.detach(), reweight)
        if not torch.is_grad_enabled():
            return LossOutput(self._value(video_BFCHW, networks, draw, weights, given_frames), {})
        video = video_BFCHW.detach().requires_grad_()
        value = self._value(video, networks, draw, weights, given_frames)
        (gradient,) = torch.autograd.grad(value, video)
        gradient = torch.nan_to_num(gradient.double())
        gradient[:, :given_frames] = 0.0
        pull = (video_BFCHW.double() * gradient).sum()
        logs = {"sid_gradient": gradient[:, given_frames:].square().mean().sqrt().float()}
        return LossOutput(value.detach() + pull - pull.detach(), logs)

    def _value(
        self,
        video_BFCHW: Tensor,
        networks: Networks,
        draw: NoiseDraw,
        weights_BF: Tensor,
        given_frames: int,
    ) -> Tensor:
        """Return the loss with its graph through both networks."""
        teacher_x0, critic_x0 = self.scores(video_BFCHW, networks, draw, given_frames)
        elements = sid_elements(
            video_BFCHW,
            teacher_x0,
            critic_x0,
            alpha=self.alpha,
            given_frames=given_frames,
            normaliser=self.normaliser,
        )
        weighted = torch.nan_to_num(elements) * weights_BF.double()[:, :, None, None, None]
        return weighted[:, given_frames:].mean()
