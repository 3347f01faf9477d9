"""Score identity distillation: differentiate through teacher and critic (SiD, arXiv 2404.04057)."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_adastate.losses.base import Networks, NoiseDraw, Reweight
from lightning_adastate.losses.dmd import DMDLoss, Normaliser, divided, without_non_finite
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
        elements = divided(elements, distance.mean(dim=(1, 2, 3, 4), keepdim=True))
    return elements


class SiDLoss(DMDLoss):
    """Score identity distillation, in the form of the Self-Forcing repository (its own does not run).

    Unlike in DMD the gradient flows through both networks' answers to the noised video, so it costs
    their backward passes; their parameters get none.

    Args:
        weighting: Weight of every frame; ``None`` is ``UniformWeighting``.
        alpha: Weight of the squared distance of both answers that is taken off.
        **kwargs: Those of ``DMDLoss``.
    """

    def __init__(
        self,
        weighting: FrameWeighting | None = None,
        *,
        alpha: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(weighting, **kwargs)
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
        gradient, counted = without_non_finite(gradient.double(), self.non_finite)
        gradient[:, :given_frames] = 0.0
        pull = (video_BFCHW.double() * gradient).sum()
        free = gradient[:, given_frames:]
        logs = {"sid_gradient": free.square().mean().sqrt().float(), **counted}
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
        elements, _ = without_non_finite(elements, self.non_finite)
        weighted = elements * weights_BF.double()[:, :, None, None, None]
        return weighted[:, given_frames:].mean()
