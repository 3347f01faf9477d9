"""Distribution matching of motion: DMD on frame-to-frame differences, with a gradient (arXiv 2603.09488)."""

# Shapes: B batch, F frames, C channels, H W latent height / width; difference f is frame f + 1 minus frame f.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_adastate.losses.base import Networks, NoiseDraw, Reweight
from lightning_adastate.losses.dmd import (
    DMDLoss,
    dmd_gradient,
    dmd_loss,
    without_non_finite,
)
from lightning_adastate.losses.weighting import FrameWeighting
from lightning_adastate.types import LossOutput

DYNAMIC_SHARE = 0.7
"""Share of the weights that follows the accumulated motion error; the rest grows with time."""

GROWTH = 1.2
"""Factor from one frame to the next of the part that grows with time."""


def motion_weights(gradient_BFCHW: Tensor) -> Tensor:
    """Return the weight of each difference, ``[B, F]``: ``0.7 dyn + 0.3 exp``, from the released code.

    ``dyn`` is one plus the share of the clip's motion error up to that difference, ``exp`` is ``1.2^f``
    divided by its mean.
    """
    error_BF = gradient_BFCHW.detach().abs().mean(dim=(2, 3, 4))
    total = error_BF.sum(dim=1, keepdim=True).clamp(min=torch.finfo(error_BF.dtype).tiny)
    dynamic = 1.0 + error_BF.cumsum(dim=1) / total
    index = torch.arange(error_BF.shape[1], device=error_BF.device, dtype=error_BF.dtype)
    growing = GROWTH**index
    return DYNAMIC_SHARE * dynamic + (1.0 - DYNAMIC_SHARE) * growing / growing.mean()


class MotionDMDLoss(DMDLoss):
    """DMD on frames, and on the differences between neighbouring frames (Diagonal Distillation).

    The motion term is the surrogate ``1/2 w |d - stopgrad(d - g)|^2`` on the differences d of the video,
    with g the DMD gradient of the differences. The released code squares g itself, in which nothing has
    a graph: its motion term has no gradient and only shifts the logged loss.

    Args:
        weighting: Weight of every frame; ``None`` is ``UniformWeighting``. A difference counts as its later
            frame.
        motion_weight: Weight of the motion term; the released code has 0.2.
        **kwargs: Those of ``DMDLoss``; ``normaliser`` is for frames and for differences.

    Raises:
        ValueError: If ``motion_weight`` is negative.
    """

    def __init__(
        self,
        weighting: FrameWeighting | None = None,
        *,
        motion_weight: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(weighting, **kwargs)
        if motion_weight < 0.0:
            raise ValueError(f"`motion_weight` must be 0 or more, got {motion_weight}")
        self.motion_weight = motion_weight

    def forward(
        self,
        video_BFCHW: Tensor,
        networks: Networks,
        draw: NoiseDraw,
        *,
        given_frames: int = 0,
        reweight: Reweight | None = None,
    ) -> LossOutput:
        """Return both terms; teacher and critic are evaluated once.

        Raises:
            ValueError: If there is only one frame, which does not move.
        """
        if video_BFCHW.shape[1] < 2:
            raise ValueError("a motion loss needs two frames or more, got 1")
        video = video_BFCHW.detach()
        with torch.no_grad():
            teacher_x0, critic_x0 = self.scores(video, networks, draw, given_frames)
            weights = self.weights(video, reweight)
            # A difference to the last given frame is generated too.
            still = max(0, given_frames - 1)
            motion = dmd_gradient(
                _differences(video),
                _differences(teacher_x0),
                _differences(critic_x0),
                given_frames=still,
                normaliser=self.normaliser,
            )
            motion, counted = without_non_finite(motion, self.non_finite)
            share = torch.zeros_like(motion[:, :, 0, 0, 0])
            share[:, still:] = motion_weights(motion[:, still:])
            share = share * weights[:, 1:].double()
        frames = self.surrogate(
            video_BFCHW, teacher_x0, critic_x0, weights, given_frames=given_frames
        )
        moved = dmd_loss(_differences(video_BFCHW), motion, share, given_frames=still)
        logs = {
            **frames.logs,
            **{f"motion_{name}": count for name, count in counted.items()},
            "motion_gradient": motion[:, still:].square().mean().sqrt().float(),
            "loss_motion": moved.detach(),
        }
        return LossOutput(frames.loss + self.motion_weight * moved, logs)


def _differences(video_BFCHW: Tensor) -> Tensor:
    return video_BFCHW[:, 1:] - video_BFCHW[:, :-1]
