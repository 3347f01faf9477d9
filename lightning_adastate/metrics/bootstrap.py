"""Paired bootstrap: is the mean difference between two arms more than chance between episodes?"""

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
    difference = (treated_B - control_B).double().cpu()
    difference = difference[~difference.isnan()]
    if len(difference) < 2:
        raise ValueError(f"expected 2 or more episodes, got {len(difference)}")
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(difference), (num_resamples, len(difference)), generator=generator)
    means = difference[picks].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(difference.mean()), low, high)
