"""What is true of episodes of PanWorld, and the material of an evaluation."""

# Shapes: B batch, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PanTruth:
    """Everything that is true of some episodes of PanWorld. Positions are map columns.

    Args:
        start_B: Where the camera would be in frame 0 if it did not shake.
        velocity_B: Its speed in pixels per frame, positive is east.
        position_BF: Where it is, shake included, not wrapped.
        color_B3: The hero's colour, RGB.
        shown_BF3: The colour it has in each frame, jitter included.
        visible_BF: Whether it is there.
    """

    start_B: Tensor
    velocity_B: Tensor
    position_BF: Tensor
    color_B3: Tensor
    shown_BF3: Tensor
    visible_BF: Tensor


@dataclass(frozen=True)
class PanEpisodes:
    """Paired material for an evaluation: every arm gets the same frames and prompts.

    Args:
        video_BFCHW: The true video ``[B, F, 3, H, W]`` in [0, 1]; its first frames are the given ones.
        prompts: One per episode.
        truth: What is true of it.
    """

    video_BFCHW: Tensor
    prompts: list[str]
    truth: PanTruth
