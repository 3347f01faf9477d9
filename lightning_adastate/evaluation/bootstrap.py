"""Bootstrap over videos: how sure is a mean, and is the difference of two arms more than chance?"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether it leaves out zero."""
        return self.low > 0 or self.high < 0

    def text(self, form: str, between: str = " ") -> str:
        """Write the mean, and the interval in brackets, each number in the form ``form``."""
        return f"{self.mean:{form}}{between}[{self.low:{form}}, {self.high:{form}}]"


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


def seed_bootstrap(value_SE: Tensor, *, num_resamples: int = 4000, seed: int = 0) -> Interval:
    """Return the mean over training seeds and episodes, and where 95 % of resampled means lie.

    Every seed was scored on the same episodes, so both are resampled, and an episode that is drawn is drawn for
    all seeds (the pigeonhole bootstrap, Owen 2007, arXiv 0712.1111). The few seeds' part is spread by
    ``sqrt(S / (S - 1))``, without which resampling shows too little of their variance; three seeds remain three:
    their own means belong beside the interval. With one seed it covers the choice of episodes alone. NaN is left
    out; seeds count the same. For a paired difference give the difference.

    Args:
        value_SE: Scores ``[S, E]``, a row for each seed.
        num_resamples: How many means are drawn.
        seed: Of the draws.

    Raises:
        ValueError: If it is no table, or no seed has two episodes.
    """
    if value_SE.ndim != 2:
        raise ValueError(f"expected seeds and episodes, [S, E], got {tuple(value_SE.shape)}")
    value_SE = value_SE.double().cpu()
    there_SE = ~value_SE.isnan()
    value_SE, there_SE = (part[there_SE.sum(1) >= 2] for part in (value_SE, there_SE))
    num_seeds, num_episodes = value_SE.shape
    if not num_seeds:
        raise ValueError("expected 2 or more episodes of a seed, got fewer")
    filled_SE, weight_SE = value_SE.nan_to_num(0.0), there_SE.double()
    mean = float((filled_SE.sum(1) / weight_SE.sum(1)).mean())
    episodes_RE = _drawn(num_episodes, num_resamples, seed)
    per_seed_RS = (episodes_RE @ filled_SE.T) / (episodes_RE @ weight_SE.T)
    seeds_RS = _drawn(num_seeds, num_resamples, seed + 1) / num_seeds
    if num_seeds > 1:
        even = 1.0 / num_seeds
        seeds_RS = even + (num_seeds / (num_seeds - 1)) ** 0.5 * (seeds_RS - even)
    means = (seeds_RS * per_seed_RS).sum(1)
    return _interval(mean, means[means.isfinite()])


@lru_cache(maxsize=8)
def _drawn(count: int, num_resamples: int, seed: int) -> Tensor:
    """Return how often each of ``count`` is drawn in every resample, ``[R, count]``."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(count, (num_resamples, count), generator=generator)
    zeros = torch.zeros(num_resamples, count, dtype=torch.float64)
    return zeros.scatter_add(1, picks, torch.ones_like(picks, dtype=torch.float64))


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
