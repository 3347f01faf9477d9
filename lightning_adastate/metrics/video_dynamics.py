"""How much a video moves, how much of that is the camera, and whether it stops."""

# Shapes: B videos, F frames.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.metrics.video_base import CurveMetric, third
from lightning_adastate.metrics.video_recorder import VideoCurves

FROZEN = 0.5 / 255.0
"""Frames that differ by less than half an 8-bit level, on average over pixels, show no motion."""

LEAST_DIFFERENCE = 0.1 / 255.0
LEAST_SHIFT = 0.01
"""Below these there is nothing whose decay could be told."""


class DynamicsScores(NamedTuple):
    """One value per video, ``[B]`` float64. All are per step from a frame to the next.

    ``shift``: mean length of the global shift, in pixels. ``travel``: length of the sum of all shifts over
    the number of steps: what is left of the shift when shake and there-and-back cancel. ``residual``: mean
    absolute difference of the brightness after the shift is taken out, in [0, 1]: objects, deformation.
    ``motion_decay``: median difference of the last third of the steps over that of the first; 1 keeps
    moving, 0 has stopped. ``shift_decay``: the same of the shift's length. ``frozen``: share of steps with
    no visible difference. Decays are NaN where the first third does not move.
    """

    shift: Tensor
    travel: Tensor
    residual: Tensor
    motion_decay: Tensor
    shift_decay: Tensor
    frozen: Tensor


def dynamics_scores(curves: VideoCurves) -> DynamicsScores:
    """Score videos by their curves."""
    way = curves.way.double()
    length = way.square().sum(-1).sqrt()
    difference = curves.difference.double()
    return DynamicsScores(
        shift=length.mean(1),
        travel=way.mean(1).square().sum(-1).sqrt(),
        residual=curves.residual.double().mean(1),
        motion_decay=_decay(difference, LEAST_DIFFERENCE),
        shift_decay=_decay(length, LEAST_SHIFT),
        frozen=(difference < FROZEN).double().mean(1),
    )


def _decay(value_BF: Tensor, least: float) -> Tensor:
    part = third(value_BF.shape[1])
    first, last = value_BF[:, :part].quantile(0.5, dim=1), value_BF[:, -part:].quantile(0.5, dim=1)
    return torch.where(first < least, torch.nan, last / first)


class VideoDynamics(CurveMetric):
    """Average ``DynamicsScores``: motion of the camera and of everything else, and whether it stops.

    What they reward wrongly: ``shift`` and ``travel`` count a pan over a dead scene, and see none of a
    rotation or zoom, which lands in ``residual``. ``residual`` counts flicker, noise and every cut as
    motion. A loop, or a jump back to the start, moves as well as anything: only ``VideoConsistency`` sees
    it. Decays above 1 are also what growing noise gives. Read them beside consistency, always.
    """

    names = DynamicsScores._fields

    def scores(self, curves: VideoCurves) -> DynamicsScores:
        """Return ``DynamicsScores``."""
        return dynamics_scores(curves)
