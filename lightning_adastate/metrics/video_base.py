"""What the video metrics share: values per video, averaged over all videos of all ranks."""

# Shapes: B videos, F frames, C colour, H W height / width in pixels, S scores.

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_adastate.metrics.video_recorder import VideoCurves, video_curves


class VideoMetric(Metric, ABC):
    """Average scores over videos; ``compute`` returns a value per name. NaN is left out of its score.

    Subclasses name their scores and compute them from curves.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    names: tuple[str, ...]
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        zeros = torch.zeros(len(self.names), dtype=torch.float64)
        self.add_state("total", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("count", zeros.clone(), dist_reduce_fx="sum")

    @abstractmethod
    def scores(self, curves: VideoCurves) -> tuple[Tensor, ...]:
        """Return one value per video for every name, ``[B]`` each, NaN where it means nothing."""

    def update(self, video: Tensor | VideoCurves) -> None:
        """Add whole videos ``[B, F, 3, H, W]`` (floats in [0, 1] or uint8), or the curves of such."""
        curves = video_curves(video) if isinstance(video, Tensor) else video
        scores_SB = torch.stack(self.scores(curves)).double().to(self.total.device)
        self.total = self.total + scores_SB.nan_to_num(0.0).sum(1)
        self.count = self.count + (~scores_SB.isnan()).sum(1)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of every score; NaN where no video had a value."""
        return dict(zip(self.names, (self.total / self.count).unbind(), strict=True))


def third(count: int) -> int:
    """Return how many of ``count`` things are the first, or the last, third."""
    return max(1, count // 3)
