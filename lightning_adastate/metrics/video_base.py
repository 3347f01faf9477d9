"""What the video metrics share: values per video, averaged over all videos of all ranks."""

# Shapes: B videos, F frames, C colour, H W height / width in pixels, S scores.

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_adastate.metrics.video_recorder import CurveRecorder, VideoCurves

Measured = TypeVar("Measured")
Measured_co = TypeVar("Measured_co", covariant=True)

DEFAULT_FPS = 16.0
"""Frames per second of videos that do not say, which is Wan's rate."""


class Recorder(Protocol[Measured_co]):
    """Takes videos piece by piece, and knows then what a metric scores them by."""

    def append(self, video_BFCHW: Tensor) -> None:
        """Add the next frames ``[B, F, 3, H, W]``: floats in [0, 1] or uint8."""

    def curves(self) -> Measured_co:
        """Return what was measured so far."""


class VideoMetric(Metric, ABC, Generic[Measured]):
    """Average scores over videos; ``compute`` returns a value per name. NaN is left out of its score.

    Subclasses name their scores, say who measures videos for them, and compute the scores from that.
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
    def recorder(self, fps: float = DEFAULT_FPS) -> Recorder[Measured]:
        """Return what measures videos of ``fps`` frames per second, piece by piece."""

    @abstractmethod
    def scores(self, curves: Measured) -> tuple[Tensor, ...]:
        """Return one value per video for every name, ``[B]`` each, NaN where it means nothing."""

    def per_video(self, curves: Measured) -> dict[str, Tensor]:
        """Return every score of every video by name, ``[B]`` float64; nothing is added up."""
        return dict(zip(self.names, self.scores(curves), strict=True))

    def update(self, video: Tensor | Measured, fps: float = DEFAULT_FPS) -> None:
        """Add whole videos ``[B, F, 3, H, W]`` (floats in [0, 1] or uint8), or what was measured of such."""
        if isinstance(video, Tensor):
            recorder = self.recorder(fps)
            recorder.append(video)
            video = recorder.curves()
        scores_SB = torch.stack(self.scores(video)).double().to(self.total.device)
        self.total = self.total + scores_SB.nan_to_num(0.0).sum(1)
        self.count = self.count + (~scores_SB.isnan()).sum(1)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of every score; NaN where no video had a value."""
        return dict(zip(self.names, (self.total / self.count).unbind(), strict=True))


class CurveMetric(VideoMetric[VideoCurves]):
    """A metric of what ``CurveRecorder`` measures."""

    def recorder(self, fps: float = DEFAULT_FPS) -> CurveRecorder:
        """Return a ``CurveRecorder``; the rate does not matter to it."""
        del fps
        return CurveRecorder()


def third(count: int) -> int:
    """Return how many of ``count`` things are the first, or the last, third."""
    return max(1, count // 3)
