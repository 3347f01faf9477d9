"""Frame weightings: how much each frame of a rollout counts in the loss."""

# Shapes: F frames. Weights are [F].

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class FrameWeighting(nn.Module, ABC):
    """Give every frame of a rollout a weight."""

    @abstractmethod
    def forward(self, frame_index_F: Tensor, rollout_frames: int) -> Tensor:
        """Return the weights ``[F]``, or ``[B, F]``, of the frames at ``frame_index_F``.

        Args:
            frame_index_F: Indices within the rollout. Given context frames are counted: the first
                generated frame after three given ones has index 3.
            rollout_frames: Frames of the whole rollout, N.
        """


class UniformWeighting(FrameWeighting):
    """Weigh all frames alike."""

    def forward(self, frame_index_F: Tensor, rollout_frames: int) -> Tensor:
        """Return ones."""
        del rollout_frames
        return torch.ones_like(frame_index_F, dtype=torch.float32)


class HorizonWeighting(FrameWeighting):
    """Let late frames count more: ``w_f = 1 + alpha f / (N - 1)``, our reading of AdaState's Eq. 5 (arXiv 2605.30349).

    The paper says a linear ramp that rises with the frame's index and is uniform at alpha 0; ``f / N`` or a
    normalised form would fit its words as well.

    Frame indices run over the whole rollout, given context included. The weights are not normalised.

    Args:
        alpha: Slope. 0 is uniform; the last frame weighs ``1 + alpha``.

    Raises:
        ValueError: If ``alpha`` is -1 or less, which would give the last frame no weight or a negative one.
    """

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__()
        if not alpha > -1.0:
            raise ValueError(f"`alpha` must be greater than -1, got {alpha}")
        self.alpha = alpha

    def forward(self, frame_index_F: Tensor, rollout_frames: int) -> Tensor:
        """Return the ramp; a rollout of one frame has weight 1."""
        # Not divided by their mean: Adam does not see a constant factor.
        return horizon_weights(frame_index_F, rollout_frames, self.alpha)


def horizon_weights(frame_index_F: Tensor, rollout_frames: int, alpha: float) -> Tensor:
    """Return ``1 + alpha f / (N - 1)``, and 1 where N is 1."""
    return 1.0 + alpha * frame_index_F.float() / max(1, rollout_frames - 1)
