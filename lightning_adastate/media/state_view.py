"""A stream's hidden state, which nothing renders, beside what it is the memory of."""

# Shapes: F frames, C colour, H W height / width in pixels. Pixels are floats in [0, 1] or uint8.

from __future__ import annotations

import torch
from torch import Tensor

from lightning_adastate.media.video import to_uint8

GREY = 128
"""What stands for a state that is not there."""


def state_beside(video_FCHW: Tensor, state_FCHW: Tensor | None) -> Tensor:
    """Return a chunk's frames with its hidden state right of them, uint8 ``[F, 3, H, W']`` on the CPU.

    Args:
        video_FCHW: The chunk's frames.
        state_FCHW: Pictures of its state, of the same size, each shown for its share of the chunk; ``None`` is
            grey.
    """
    video = to_uint8(video_FCHW)
    frames, _, height, width = video.shape
    white = video.new_full((frames, 3, height, max(1, width // 32)), 255)
    if state_FCHW is None:
        state = torch.full_like(video, GREY)
    else:
        state = to_uint8(state_FCHW)[torch.arange(frames) * len(state_FCHW) // frames]
    return torch.cat([video, white, state], dim=3)
