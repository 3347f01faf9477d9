"""Flow matching: noise levels, their shift, and the conversions between x0 and velocity."""

# x_sigma = (1 - sigma) x0 + sigma eps, velocity = eps - x0. sigma is in [0, 1], timestep in [0, 1000].

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

NUM_TIMESTEPS = 1000
"""Entries of the training grid of Wan and its relatives."""


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1: ``s u / (1 + (s - 1) u)`` (Stable Diffusion 3, arXiv 2403.03206, Eq. 23)."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


class SigmaTable:
    """The 1000 noise levels of a flow-matching grid with a shift.

    Public code looks noise levels up in this table, taking the nearest entry, and never interpolates.
    So do we: training and streaming then agree with released checkpoints to the last digit.

    Args:
        shift: Timestep shift, positive. 1 leaves the grid uniform.

    Raises:
        ValueError: If ``shift`` is not positive.
    """

    def __init__(self, shift: float = 5.0) -> None:
        if shift <= 0.0:
            raise ValueError(f"`shift` must be positive, got {shift}")
        self.shift = shift

    @cached_property
    def sigmas(self) -> Tensor:
        """Return ``[1000]`` levels in float32, falling from 1."""
        grid = torch.linspace(1.0, 0.0, NUM_TIMESTEPS + 1, dtype=torch.float32)[:-1]
        return shift_sigma(grid, self.shift)

    @cached_property
    def timesteps(self) -> Tensor:
        """Return ``[1000]`` timesteps in float32, falling from 1000."""
        return self.sigmas * NUM_TIMESTEPS

    def sigma_at(self, timestep: Tensor) -> Tensor:
        """Return the level of the nearest table entry, for timesteps of any shape."""
        table = self.timesteps.to(timestep.device)
        nearest = (table - timestep.float().unsqueeze(-1)).abs().argmin(dim=-1)
        return self.sigmas.to(timestep.device)[nearest]

    def warp(self, steps: Sequence[float]) -> list[float]:
        """Return the shifted timesteps of unshifted integer ``steps``; 1000 is pure noise, 0 is clean."""
        full = torch.cat([self.timesteps, self.timesteps.new_zeros(1)])
        return [float(full[NUM_TIMESTEPS - int(step)]) for step in steps]


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """Return ``(1 - sigma) x0 + sigma noise``; ``sigma`` broadcasts from the left."""
    level = _expand(sigma, x0)
    return (1.0 - level) * x0 + level * noise


def velocity_to_x0(velocity: Tensor, x_sigma: Tensor, sigma: Tensor | float) -> Tensor:
    """Return ``x_sigma - sigma velocity``."""
    return x_sigma - _expand(sigma, x_sigma) * velocity


def x0_to_velocity(x0: Tensor, x_sigma: Tensor, sigma: Tensor | float) -> Tensor:
    """Return ``(x_sigma - x0) / sigma``; ``sigma`` must not be zero."""
    return (x_sigma - x0) / _expand(sigma, x_sigma)


def _expand(sigma: Tensor | float, like: Tensor) -> Tensor | float:
    """Append axes to ``sigma`` until it has as many as ``like``."""
    if not isinstance(sigma, Tensor):
        return sigma
    return sigma.reshape(sigma.shape + (1,) * (like.ndim - sigma.ndim))
