"""Flow-matching loss on real videos: pretraining of teachers and of causal models."""

# Shapes: B batch, F frames, G groups of frames that share a timestep, C channels, H W latent height / width.

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_adastate.flow import NUM_TIMESTEPS, SigmaTable

TimestepWeighting = Literal["uniform", "bell"]


class FlowMatchingLoss(nn.Module):
    """Mean squared error of the velocity ``noise - x0``, at timesteps drawn from a shifted grid.

    Args:
        shift: Timestep shift of the grid. 1 draws noise levels uniformly.
        timestep_weighting: ``bell`` weighs the middle of the grid most, as public Wan training code does;
            its mean over the grid is 1.

    Raises:
        ValueError: If ``shift`` is not positive.
    """

    def __init__(
        self, shift: float = 5.0, *, timestep_weighting: TimestepWeighting = "uniform"
    ) -> None:
        super().__init__()
        self.table = SigmaTable(shift)
        self.timestep_weighting: TimestepWeighting = timestep_weighting

    def draw(self, rows: int, groups: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw timesteps in (0, 1000] and their noise levels, ``[B, G]`` each, on the CPU."""
        index = torch.randint(0, NUM_TIMESTEPS, (rows, groups), generator=generator)
        return self.table.timesteps[index], self.table.sigmas[index]

    def forward(
        self,
        velocity_BFCHW: Tensor,
        target_BFCHW: Tensor,
        timestep_BF: Tensor,
        mask_BF: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted error, averaged over the frames in ``mask_BF`` (``None``: all), in float32.

        Args:
            velocity_BFCHW: Prediction.
            target_BFCHW: ``noise - x0``.
            timestep_BF: Timestep of every frame.
            mask_BF: 1 where a frame carries loss; given frames do not.
        """
        error_BF = (velocity_BFCHW.float() - target_BFCHW.float()).square().mean(dim=(2, 3, 4))
        weights_BF = self.weights(timestep_BF)
        if mask_BF is None:
            return (weights_BF * error_BF).mean()
        return (weights_BF * error_BF * mask_BF).sum() / mask_BF.sum().clamp(min=1.0)

    def weights(self, timestep_BF: Tensor) -> Tensor:
        """Return the weight of each timestep."""
        if self.timestep_weighting == "uniform":
            return torch.ones_like(timestep_BF)
        lowest, scale = self._bell_range
        weights: Tensor = (self._bell(timestep_BF) - lowest) * scale
        return weights

    @cached_property
    def _bell_range(self) -> tuple[float, float]:
        """Return the bell's lowest value on the grid, and what makes its mean there 1."""
        bell = self._bell(self.table.timesteps)
        lowest = bell.min()
        return float(lowest), float(NUM_TIMESTEPS / (bell - lowest).sum())

    def _bell(self, timestep: Tensor) -> Tensor:
        return torch.exp(-2.0 * ((timestep - NUM_TIMESTEPS / 2) / NUM_TIMESTEPS).square())
