"""What one video scores, and how it goes on: all video metrics in one reading."""

# Shapes: B videos, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from lightning_adastate.metrics import DynamicDegree, VideoCurves, VideoMetrics, VideoSSIM
from lightning_adastate.metrics.video_ssim import EVERY


class Series(NamedTuple):
    """One value after the other, float32 ``[K]``, and the seconds at which they are."""

    seconds: Tensor
    value: Tensor


class ScoredVideo(NamedTuple):
    """Every score of a video by name, ``[1]`` float64, and what changes in it by name."""

    scores: dict[str, Tensor]
    series: dict[str, Series]


class VideoScorer:
    """Score videos by all metrics there are, each read once.

    Args:
        metrics: Motion, consistency, loops and drift.
        ssim: Structural similarity.
        flow: Optical flow; ``None`` leaves it out.
    """

    def __init__(
        self, metrics: VideoMetrics, ssim: VideoSSIM, flow: DynamicDegree | None = None
    ) -> None:
        self.metrics = metrics
        self.ssim = ssim
        self.flow = flow

    def score(self, pieces: Iterable[Tensor], fps: float) -> ScoredVideo:
        """Score one video that comes in pieces ``[1, F, 3, H, W]``.

        Args:
            pieces: In order.
            fps: Frames per second.

        Raises:
            ValueError: If it is too short, or too small for a flow.
        """
        look, likeness = self.metrics.recorder(fps), self.ssim.recorder(fps)
        motion = None if self.flow is None else self.flow.recorder(fps)
        for piece in pieces:
            look.append(piece)
            likeness.append(piece)
            if motion is not None:
                motion.append(piece)
        curves, similar = look.curves(), likeness.curves()
        scores = self.metrics.per_video(curves) | self.ssim.per_video(similar)
        if self.flow is not None and motion is not None:
            scores |= self.flow.per_video(motion.curves())
        return ScoredVideo(scores, _series(curves, similar.first[0], fps))


def _series(curves: VideoCurves, ssim_first: Tensor, fps: float) -> dict[str, Series]:
    """Return what the plots show, of the first video."""
    small = curves.small[0]
    looks = {name: value[0] for name, value in curves.looks._asdict().items()}
    steps = {
        "difference": 255.0 * curves.difference[0],
        "shift": curves.way[0].square().sum(-1).sqrt(),
    }
    found = {name: _every(1, 1, value, fps) for name, value in steps.items()}
    found["to_first"] = _every(0, 1, small @ small[0], fps)
    found["ssim_first"] = _every(EVERY, EVERY, ssim_first, fps)
    return found | {name: _every(0, 1, value, fps) for name, value in looks.items()}


def _every(first: int, step: int, value: Tensor, fps: float) -> Series:
    frames = first + step * value.new_ones(len(value)).cumsum(0).sub(1)
    return Series(frames / fps, value.clone())
