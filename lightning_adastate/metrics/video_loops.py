"""Whether a video repeats itself, and after how many frames."""

# Shapes: B videos, F frames, D values of a small copy, K lags.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.metrics.video_base import CurveMetric
from lightning_adastate.metrics.video_recorder import VideoCurves

AGAIN = 0.8
"""Autocorrelation from which on a video is as it was."""

AWAY = 0.3
"""Autocorrelation below which it is not."""

LEAST_CHANGE = 1e-6
"""Mean square of a small copy's change, of 1, below which nothing changes."""

COLUMNS = 64
"""Values of the small copies whose spectra are in memory at a time."""


class LoopScores(NamedTuple):
    """One value per video, ``[B]`` float64.

    ``loops``: 1 if it repeats itself, else 0. ``loop_period``: after how many frames; NaN if it does not.
    """

    loops: Tensor
    loop_period: Tensor


def autocorrelation(small_BFD: Tensor) -> Tensor:
    """Return how like videos are to themselves ``k`` frames later, ``[B, K]``, for k of 0 to half the frames.

    It is the normalised correlation of all frames with those k later, once the mean over time is taken out, so
    what never changes does not count. A video in which nothing changes has zeros.
    """
    frames = small_BFD.shape[1]
    most = frames // 2
    change = small_BFD.double() - small_BFD.double().mean(1, keepdim=True)
    products = change.new_zeros(len(change), most + 1)
    for part in change.split(COLUMNS, dim=2):
        power = torch.fft.rfft(part, n=2 * frames, dim=1).abs().square().sum(2)
        products += torch.fft.irfft(power, n=2 * frames, dim=1)[:, : most + 1]
    energy = change.square().sum(2)
    gone = energy.cumsum(1)
    lag = torch.arange(most + 1, device=change.device)
    early = gone[:, frames - 1 - lag]
    late = gone[:, -1:] - torch.where(lag > 0, gone[:, (lag - 1).clamp(min=0)], 0.0)
    least = LEAST_CHANGE * (frames - lag)
    changes = (early > least) & (late > least)
    return torch.where(changes, products / (early * late).sqrt().clamp(min=1e-12), 0.0)


def loop_scores(curves: VideoCurves) -> LoopScores:
    """Score videos by their curves."""
    periods = [_period(row) for row in autocorrelation(curves.small).tolist()]
    period = torch.tensor(periods, dtype=torch.float64)
    return LoopScores((~period.isnan()).double(), period)


def _period(like: list[float]) -> float:
    """Return the best lag of the first stretch that is as it was, after it has not been; else NaN."""
    away = next((lag for lag, value in enumerate(like) if value < AWAY), len(like))
    first = next((lag for lag in range(away, len(like)) if like[lag] >= AGAIN), None)
    if first is None:
        return float("nan")
    last = next((lag for lag in range(first, len(like)) if like[lag] < AGAIN), len(like))
    return float(max(range(first, last), key=like.__getitem__))


class VideoLoops(CurveMetric):
    """Average ``LoopScores``: whether videos repeat themselves, and after how many frames.

    A loop is seen if it is there twice and fills the video: the autocorrelation of small copies falls below
    0.3 and comes back to 0.8 within half of the frames. What they reward wrongly: a loop that begins late is
    diluted by what was before it (``novelty`` falls). A camera that pans there and back repeats itself, on
    purpose or not. Noise hides a loop of little contrast.
    """

    names = LoopScores._fields

    def scores(self, curves: VideoCurves) -> LoopScores:
        """Return ``LoopScores``."""
        return loop_scores(curves)
