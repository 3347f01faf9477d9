"""A stream's hidden state, which nothing renders, beside what it is the memory of."""

# Shapes: F frames, C colour, H W height / width in pixels. Pixels are floats in [0, 1].

from __future__ import annotations

import torch
from torch import Tensor


def state_beside(video_FCHW: Tensor, state_FCHW: Tensor | None) -> Tensor:
    """Return a chunk's frames with its hidden state right of them, ``[F, 3, H, W']``, floats in [0, 1].

    Args:
        video_FCHW: The chunk's frames.
        state_FCHW: Pictures of its state, of the same size, each shown for its share of the chunk; ``None`` is
            grey.
    """
    frames, _, height, width = video_FCHW.shape
    white = video_FCHW.new_ones(frames, 3, height, max(1, width // 32))
    if state_FCHW is None:
        state = torch.full_like(video_FCHW, 0.5)
    else:
        state = state_FCHW[torch.arange(frames) * len(state_FCHW) // frames].to(video_FCHW)
    return torch.cat([video_FCHW, white, state], dim=3)
