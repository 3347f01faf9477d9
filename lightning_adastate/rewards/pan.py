"""A reward on PanWorld, read off the pixels exactly: does the camera move as the prompt says?"""

# Shapes: B batch, F frames, H W height / width in pixels.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_adastate.rewards.base import Reward
from lightning_adastate.worlds import PanWorld, decode_pan, wrap


class PanReward(Reward):
    """Score how near the camera's pace is to the prompted one, as VideoAlign's motion quality scores motion.

    The pace is the slope of the straight line through the camera's places, so a clip's shake hardly counts.
    The raw score is the mean error of a frozen camera less the clip's error, over that mean: 1 is the
    prompted pace, 0 is as wrong as standing still is on average, and a wrong direction is below 0.

    Args:
        world: The world that the clips show; ``None`` is ``PanWorld()``.
        mean: Taken off the raw scores. The default is that of 64 clips of 21 frames, 3 of them given, by
            the shipped toy generator; true clips have 0.89.
        std: What they are divided by then; measured likewise.

    Raises:
        ValueError: If ``std`` is not positive.
    """

    def __init__(
        self, world: PanWorld | None = None, *, mean: float = 0.48, std: float = 0.35
    ) -> None:
        super().__init__()
        if not std > 0.0:
            raise ValueError(f"`std` must be positive, got {std}")
        self.world = PanWorld() if world is None else world
        self.mean = mean
        self.std = std

    @torch.no_grad()
    def forward(self, video_BFCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the raw scores, less the mean, over the deviation.

        Raises:
            ValueError: If a prompt is none of PanWorld's, or there are fewer than two frames.
        """
        if video_BFCHW.shape[1] < 2:
            raise ValueError("the pace of a camera needs two frames or more, got 1")
        place_BF = decode_pan(self.world, video_BFCHW).position_BF
        step_BF = wrap(place_BF.diff(dim=1), self.world.num_columns)
        way_BF = torch.cat([torch.zeros_like(step_BF[:, :1]), step_BF.cumsum(dim=1)], dim=1)
        time_F = torch.arange(way_BF.shape[1], dtype=way_BF.dtype)
        time_F = time_F - time_F.mean()
        pace_B = (way_BF * time_F).sum(dim=1) / time_F.square().sum()
        asked_B = pace_B.new_tensor([self.world.velocity(prompt) for prompt in prompts])
        frozen = sum(abs(velocity) for velocity in self.world.velocities)
        frozen /= len(self.world.velocities)
        raw_B = (frozen - (pace_B - asked_B).abs()) / frozen
        score_B = (raw_B - self.mean) / self.std
        return score_B.to(video_BFCHW.device, torch.float32)
