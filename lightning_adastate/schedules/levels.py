"""Noise levels of a list of steps, and the denoise passes over them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

from lightning_adastate.flow import NUM_TIMESTEPS, SigmaTable
from lightning_adastate.schedules.base import Pass


class NoiseLevel(NamedTuple):
    """A timestep in [0, 1000] and its sigma in [0, 1]."""

    timestep: float
    sigma: float


def noise_levels(
    table: SigmaTable, steps: Sequence[float], *, warp: bool, name: str
) -> tuple[NoiseLevel, ...]:
    """Return the levels of ``steps``; sigma is the nearest entry of the table, as in public code.

    Args:
        table: Noise levels and their shift.
        steps: Timesteps in (0, 1000], falling.
        warp: Whether ``steps`` are unshifted and get shifted here.
        name: The argument they came from, for the message.

    Raises:
        ValueError: If the steps are empty, not falling, or outside (0, 1000].
    """
    falling = all(a > b for a, b in itertools.pairwise(steps))
    if not steps or not falling or not 0 < steps[-1] <= steps[0] <= NUM_TIMESTEPS:
        raise ValueError(f"`{name}` must fall and lie in (0, 1000], got {list(steps)}")
    timesteps = table.warp(steps) if warp else [float(step) for step in steps]
    nearest = [(table.timesteps - timestep).abs().argmin() for timestep in timesteps]
    sigmas = [float(table.sigmas[index]) for index in nearest]
    return tuple(NoiseLevel(*level) for level in zip(timesteps, sigmas, strict=True))


def denoise_passes(
    levels: Sequence[NoiseLevel], sampler: Literal["renoise", "euler"] = "renoise"
) -> tuple[Pass, ...]:
    """Return one denoise pass per level; the last leaves x0 clean."""
    after = [level.sigma for level in levels[1:]]
    return tuple(
        Pass(level.timestep, level.sigma, "denoise", next_sigma, sampler)
        for level, next_sigma in zip(levels, [*after, None], strict=True)
    )
