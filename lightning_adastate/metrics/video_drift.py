"""How far the look of a video drifts from its start: light, contrast, colour, sharpness, clipping."""

# Shapes: B videos, F frames.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.metrics.video_base import CurveMetric
from lightning_adastate.metrics.video_recorder import VideoCurves

END_SHARE = 0.15
"""Share of the frames that are the start, and the end (FramePack, arXiv 2504.12626)."""

LEAST_LOOK = 1e-6
"""A start below this is none to compare with."""


class DriftScores(NamedTuple):
    """One value per video, ``[B]`` float64; 0 is no drift.

    ``drift_*``: start-end contrast, the absolute difference of the mean over the first 15 % of the frames
    and over the last (FramePack). ``vde_*``: video drift error over equal parts, the sum of
    ``(N - i + 1) |m_i - m_1| / m_1`` for parts 2 to N (LV-Bench); NaN where ``m_1`` is 0. Which looks:
    ``FrameLooks``.
    """

    drift_luma: Tensor
    drift_contrast: Tensor
    drift_saturation: Tensor
    drift_colorfulness: Tensor
    drift_sharpness: Tensor
    drift_clipped: Tensor
    vde_luma: Tensor
    vde_contrast: Tensor
    vde_saturation: Tensor
    vde_colorfulness: Tensor
    vde_sharpness: Tensor


def start_end_contrast(value_BF: Tensor) -> Tensor:
    """Return by how much the last 15 % of the frames differ from the first, ``[B]``."""
    part = max(1, round(END_SHARE * value_BF.shape[1]))
    return (value_BF[:, -part:].mean(1) - value_BF[:, :part].mean(1)).abs()


def video_drift_error(value_BF: Tensor, num_parts: int) -> Tensor:
    """Return LV-Bench's VDE over ``num_parts`` parts, as equal as can be; NaN if there are fewer frames.

    It is a sum, so it grows with the number of parts, and early parts weigh most.
    """
    frames = value_BF.shape[1]
    if frames < num_parts:
        return value_BF.new_full((len(value_BF),), torch.nan)
    edges = [round(i * frames / num_parts) for i in range(num_parts + 1)]
    means = torch.stack(
        [value_BF[:, edges[i] : edges[i + 1]].mean(1) for i in range(num_parts)], dim=1
    )
    first = means[:, :1]
    weights = torch.arange(num_parts - 1, 0, -1, dtype=value_BF.dtype, device=value_BF.device)
    total = (weights * (means[:, 1:] - first).abs()).sum(1) / first[:, 0]
    return torch.where(first[:, 0] < LEAST_LOOK, torch.nan, total)


def drift_scores(curves: VideoCurves, *, num_parts: int = 5) -> DriftScores:
    """Score videos by their curves."""
    looks = [look.double() for look in curves.looks]
    return DriftScores(
        *(start_end_contrast(look) for look in looks),
        *(video_drift_error(look, num_parts) for look in looks[:-1]),
    )


class VideoDrift(CurveMetric):
    """Average ``DriftScores``: whether light, contrast, colour, sharpness or clipping leave the start.

    What they reward wrongly: a frozen video does not drift at all, nor does a loop. A scene that is meant
    to change (dusk, a prompt switch, a camera that turns to the window) drifts. Degradation that is there
    from the first frame is none. Clipping that starts at 0 has no VDE.

    Args:
        num_parts: Parts of the drift error.

    Raises:
        ValueError: If there are fewer than two parts.
    """

    names = DriftScores._fields

    def __init__(self, *, num_parts: int = 5) -> None:
        super().__init__()
        if num_parts < 2:
            raise ValueError(f"`num_parts` must be 2 or more, got {num_parts}")
        self.num_parts = num_parts

    def scores(self, curves: VideoCurves) -> DriftScores:
        """Return ``DriftScores``."""
        return drift_scores(curves, num_parts=self.num_parts)
