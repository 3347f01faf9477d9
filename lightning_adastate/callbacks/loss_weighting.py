"""The user's extension point of the loss: a callback with the last word on the frame weights."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from lightning_adastate.losses import horizon_weights


class LossWeightingCallback(Callback, ABC):
    """Change how much each frame of a rollout counts, with the video and the trainer at hand.

    Subclass it, define ``frame_weights``, and add it to the trainer's callbacks. Several run in their order.
    It is the one kind of callback that changes what is computed; weights that depend on the frame's index
    alone are better a ``FrameWeighting``.
    """

    @abstractmethod
    def frame_weights(
        self, module: LightningModule, weights_BF: Tensor, video_BFCHW: Tensor
    ) -> Tensor:
        """Return the new weights ``[B, F]`` (or ``[F]``), finite and not negative.

        Args:
            module: The module in training; ``module.global_step`` counts generator steps.
            weights_BF: The weights so far: the loss's weighting, then the hooks before this one.
            video_BFCHW: The rollout's latents, without a graph. Given frames are included; whatever
                weight they get, they carry no loss.
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


def apply_frame_weights(
    module: LightningModule,
    callbacks: Sequence[Callback],
    weights_BF: Tensor,
    video_BFCHW: Tensor,
    *,
    unscored_frames: int = 0,
) -> Tensor:
    """Run the weights through all callbacks that change them, in their order.

    Args:
        module: The module in training.
        callbacks: The trainer's.
        weights_BF: The loss's own weights.
        video_BFCHW: The rollout's latents.
        unscored_frames: First frames that get no weight, whatever the hooks say.

    Raises:
        ValueError: If a hook returns weights of another shape, negative ones, or not numbers.
    """
    hooks = [hook for hook in callbacks if isinstance(hook, LossWeightingCallback)]
    for hook in hooks:
        shape = weights_BF.shape
        weights = hook.frame_weights(module, weights_BF, video_BFCHW)
        name = type(hook).__name__
        if not isinstance(weights, Tensor):
            raise ValueError(  # noqa: TRY004, a mistake of the user's
                f"{name}.frame_weights must return weights of shape {tuple(shape)}, got {weights!r}"
            )
        try:
            weights_BF = weights.to(weights_BF).expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"{name}.frame_weights must return weights of shape {tuple(shape)}, "
                f"got {tuple(weights.shape)}"
            ) from error
        if not bool((torch.isfinite(weights_BF) & (weights_BF >= 0)).all()):
            raise ValueError(f"{name}.frame_weights must return finite weights of 0 or more")
    if not unscored_frames:
        return weights_BF
    free_F = torch.arange(weights_BF.shape[1], device=weights_BF.device) >= unscored_frames
    return weights_BF * free_F
