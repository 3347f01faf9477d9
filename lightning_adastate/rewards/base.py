"""The contract of a reward, and an adapter for scorers that are just functions."""

# Shapes: B batch, F frames, H W height / width in pixels.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Reward(nn.Module, ABC):
    """Score clips. No gradient flows through a reward: it only weighs samples."""

    @abstractmethod
    def forward(self, video_BFCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return one score per clip, ``[B]``, higher is better, about zero mean and unit spread.

        Args:
            video_BFCHW: Pixels ``[B, F, 3, H, W]`` in [0, 1].
            prompts: One per clip.
        """


class FunctionReward(Reward):
    """Use a function as reward, normalised.

    Args:
        function: Takes pixels ``[B, F, 3, H, W]`` in [0, 1] and the list of prompts, returns ``[B]``. In
            YAML its import path: ``my_scorers.motion_quality``.
        mean: Taken off the scores.
        std: What they are divided by then.

    Raises:
        ValueError: If ``std`` is not positive; at use, if the function returns another shape.
    """

    def __init__(
        self,
        function: Callable[[Tensor, list[str]], Tensor],
        *,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        if not std > 0.0:
            raise ValueError(f"`std` must be positive, got {std}")
        self.function = function
        self.mean = mean
        self.std = std

    @torch.no_grad()
    def forward(self, video_BFCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the function's scores, less the mean, over the deviation."""
        scores = self.function(video_BFCHW, list(prompts))
        if tuple(scores.shape) != (len(prompts),):
            raise ValueError(
                f"a reward must return one score per clip, {(len(prompts),)}, got {tuple(scores.shape)}"
            )
        return (scores - self.mean) / self.std
