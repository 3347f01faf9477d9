"""The user's extension point of the loss: a callback with the last word on the frame weights."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from lightning_adastate.losses import horizon_weights
from lightning_adastate.training.hooks import FrameWeightHook


class LossWeightingCallback(Callback, FrameWeightHook):
    """Change how much each frame of a rollout counts, with the video and the trainer at hand.

    Subclass it, define ``frame_weights``, and add it to the trainer's callbacks. Several run in their order.
    It is the one kind of callback that changes what is computed; weights that depend on the frame's index
    alone are better a ``FrameWeighting``.
    """


class HorizonRamp(LossWeightingCallback):
    """Let the horizon weighting's slope grow during training: first all frames alike, then the late ones.

    Multiplies the weights by ``1 + alpha(step) f / (N - 1)``, so combine it with ``UniformWeighting``.

    Args:
        alpha: Slope at the end of the ramp.
        ramp_steps: Generator steps over which the slope rises from 0.

    Raises:
        ValueError: If ``alpha`` is -1 or less or ``ramp_steps`` is less than 1.
    """

    def __init__(self, alpha: float = 4.0, *, ramp_steps: int = 1000) -> None:
        super().__init__()
        if not alpha > -1.0:
            raise ValueError(f"`alpha` must be greater than -1, got {alpha}")
        if ramp_steps < 1:
            raise ValueError(f"`ramp_steps` must be 1 or more, got {ramp_steps}")
        self.alpha = alpha
        self.ramp_steps = ramp_steps

    def frame_weights(
        self, module: LightningModule, weights_BF: Tensor, video_BFCHW: Tensor
    ) -> Tensor:
        """Return the weights times the ramp of the present step."""
        del video_BFCHW
        frames = weights_BF.shape[1]
        alpha = self.alpha * min(1.0, module.global_step / self.ramp_steps)
        index = torch.arange(frames, device=weights_BF.device)
        return weights_BF * horizon_weights(index, frames, alpha)
