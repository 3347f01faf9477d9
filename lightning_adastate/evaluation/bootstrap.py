"""Bootstrap over videos: how sure is a mean, and is the difference of two arms more than chance?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    treated_B: Tensor, control_B: Tensor, *, num_resamples: int = 4000, seed: int = 0
) -> Interval:
    """Return the mean of ``treated - control`` over episodes, and where 95 % of resampled means lie.

    Both arms must have run the same episodes in the same order. Episodes where either is NaN are left
    out. The interval covers the choice of episodes, not of a training seed.

    Raises:
        ValueError: If the arms differ in shape, or fewer than two episodes are left.
    """
    if treated_B.shape != control_B.shape or treated_B.ndim != 1:
        raise ValueError(
            f"expected two arms of equal length, got {tuple(treated_B.shape)} "
            f"and {tuple(control_B.shape)}"
        )
    return mean_bootstrap(treated_B - control_B, num_resamples=num_resamples, seed=seed)


def mean_bootstrap(value_B: Tensor, *, num_resamples: int = 4000, seed: int = 0) -> Interval:
    """Return the mean over episodes, and where 95 % of resampled means lie. NaN is left out.

    Raises:
        ValueError: If fewer than two episodes are left.
    """
    value_B = _there(value_B)
    generator = torch.Generator().manual_seed(seed)
    return _interval(float(value_B.mean()), _resampled(value_B, num_resamples, generator))


def unpaired_bootstrap(
    treated_B: Tensor, control_B: Tensor, *, num_resamples: int = 4000, seed: int = 0
) -> Interval:
    """Return the difference of the means of two arms that share no episodes, and its 95 % interval.

    Each arm is resampled on its own. NaN is left out. Pair where you can: it is much narrower.

    Raises:
        ValueError: If fewer than two episodes are left in an arm.
    """
    treated_B, control_B = _there(treated_B), _there(control_B)
    generator = torch.Generator().manual_seed(seed)
    treated = _resampled(treated_B, num_resamples, generator)
    control = _resampled(control_B, num_resamples, generator)
    return _interval(float(treated_B.mean() - control_B.mean()), treated - control)


def _there(value_B: Tensor) -> Tensor:
    value_B = value_B.double().cpu()
    value_B = value_B[~value_B.isnan()]
    if len(value_B) < 2:
        raise ValueError(f"expected 2 or more episodes, got {len(value_B)}")
    return value_B


def _resampled(value_B: Tensor, num_resamples: int, generator: torch.Generator) -> Tensor:
    picks = torch.randint(len(value_B), (num_resamples, len(value_B)), generator=generator)
    return value_B[picks].mean(1)


def _interval(mean: float, means: Tensor) -> Interval:
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(mean, low, high)
