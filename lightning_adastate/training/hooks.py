"""The extension points that callbacks implement and training modules call."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from lightning.pytorch import LightningModule
from torch import Tensor


class FrameWeightHook(ABC):
    """Have the last word on how much each frame of a rollout counts."""

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


def apply_frame_weights(
    module: LightningModule,
    weights_BF: Tensor,
    video_BFCHW: Tensor,
    *,
    silent_frames: int = 0,
) -> Tensor:
    """Run the weights through all the trainer's callbacks that are hooks, in their order.

    Args:
        module: The module in training.
        weights_BF: The loss's own weights.
        video_BFCHW: The rollout's latents.
        silent_frames: First frames that get no weight, whatever the hooks say.

    Raises:
        ValueError: If a hook returns weights of another shape, negative ones, or not numbers.
    """
    hooks = [hook for hook in _callbacks(module) if isinstance(hook, FrameWeightHook)]
    for hook in hooks:
        shape = weights_BF.shape
        weights = hook.frame_weights(module, weights_BF, video_BFCHW)
        name = type(hook).__name__
        try:
            weights_BF = weights.to(weights_BF).expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"{name}.frame_weights must return weights of shape {tuple(shape)}, "
                f"got {tuple(weights.shape)}"
            ) from error
        if not bool((torch.isfinite(weights_BF) & (weights_BF >= 0)).all()):
            raise ValueError(f"{name}.frame_weights must return finite weights of 0 or more")
    if not silent_frames:
        return weights_BF
    free_F = torch.arange(weights_BF.shape[1], device=weights_BF.device) >= silent_frames
    return weights_BF * free_F


def _callbacks(module: LightningModule) -> list[object]:
    """Return the trainer's callbacks; a module without a trainer has none."""
    trainer = module._trainer
    return [] if trainer is None else list(trainer.callbacks)  # type: ignore[attr-defined]
