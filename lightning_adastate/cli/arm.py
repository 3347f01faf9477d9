"""One arm of a comparison."""

# Shapes: B episodes, F frames, C colour, H W height / width in pixels, K chunks.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lightning_adastate.metrics import PanScores


@dataclass(frozen=True)
class Arm:
    """What one anchor did.

    Args:
        video_BFCHW: The stream, given frames first.
        scores: Horizon in frames -> scores of the stream cut there.
        state_error_BK: Distance of the decoded hidden state's hero from the true colour, per chunk;
            ``None`` without a hidden state.
        content_error_BK: The same of the content of those chunks.
    """

    video_BFCHW: Tensor
    scores: Mapping[int, PanScores]
    state_error_BK: Tensor | None
    content_error_BK: Tensor | None
