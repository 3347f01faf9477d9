"""How far the whole picture moved between two frames, by phase correlation, and what is left without it."""

# Shapes: P pairs of frames, H W height / width in pixels, K shifts that are tried.

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

NUM_PEAKS = 8
"""Peaks of the phase correlation that are tried, besides no shift at all."""

MUST_EXPLAIN = 0.8
"""A shift of whole pixels counts if it leaves less than this share of the difference between the frames."""

ONE_LEVEL = 1.0 / 255.0

ROUNDS = 4
"""Least absolute differences by weighted least squares: what moves on its own must not pull the picture along."""

TINY = 1e-12


class Shift(NamedTuple):
    """Where the picture went, and the difference it does not explain.

    ``way_P2``: pixels down and to the right, with fractions. ``residual_P``: mean absolute difference of
    the brightness where the frames overlap, once the shift is taken out.
    """

    way_P2: Tensor
    residual_P: Tensor


def global_shift(before_PHW: Tensor, after_PHW: Tensor) -> Shift:
    """Return how far ``after`` is shifted against ``before``, both ``[P, H, W]``, floats.

    Whole pixels come from the peaks of the phase correlation: the one that leaves the least difference
    in the overlap wins, and none does if it explains little (noise, a cut). Fractions come from the
    gradients around it. Without structure both are exact zeros. Trust shifts up to a quarter of the
    picture; those of more than half of it cannot be seen.
    """
    way = _candidates(before_PHW, after_PHW)
    errors = torch.stack(
        [_overlap(before_PHW, after_PHW, way[:, k])[3] for k in range(way.shape[1])], dim=1
    )
    best = errors.argmin(1)
    pairs = torch.arange(len(best), device=best.device)
    explains = errors[pairs, best] < MUST_EXPLAIN * errors[:, 0]
    whole_P2 = torch.where(explains[:, None], way[pairs, best], 0)
    before, after, inside, _ = _overlap(before_PHW, after_PHW, whole_P2)
    fraction, residual = _fraction(before, after, inside)
    return Shift(whole_P2 + fraction, residual)


def _candidates(before_PHW: Tensor, after_PHW: Tensor) -> Tensor:
    """Return no shift, then the highest peaks of the phase correlation: whole pixels ``[P, K, 2]``."""
    height, width = before_PHW.shape[1:]
    taper = _taper(height, before_PHW)[:, None] * _taper(width, before_PHW)
    spectra = [
        torch.fft.rfft2((frame - frame.mean((1, 2), keepdim=True)) * taper)
        for frame in (before_PHW, after_PHW)
    ]
    cross = spectra[1] * spectra[0].conj()
    surface = torch.fft.irfft2(cross / (cross.abs() + TINY), s=(height, width)).flatten(1)
    peaks = surface.topk(min(NUM_PEAKS, height * width), dim=1).indices
    down, right = peaks // width, peaks % width
    down = torch.where(down > height // 2, down - height, down)
    right = torch.where(right > width // 2, right - width, right)
    way = torch.stack([down, right], dim=-1)
    return torch.cat([torch.zeros_like(way[:, :1]), way], dim=1)


def _taper(size: int, like: Tensor) -> Tensor:
    """Return a Hann window without zeros, so that a picture of one row keeps it."""
    place = torch.arange(size, device=like.device, dtype=like.dtype) + 0.5
    return (math.pi * place / size).sin().square()


def _overlap(
    before_PHW: Tensor, after_PHW: Tensor, way_P2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return both frames where they show the same after a shift, where that is, and the mean difference."""
    pairs, height, width = before_PHW.shape
    rows = torch.arange(height, device=way_P2.device) + way_P2[:, :1]
    columns = torch.arange(width, device=way_P2.device) + way_P2[:, 1:]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None
    ]
    picked = torch.arange(pairs, device=way_P2.device)[:, None, None]
    moved = after_PHW[picked, (rows % height)[:, :, None], (columns % width)[:, None]]
    error = ((moved - before_PHW).abs() * inside).sum((1, 2)) / inside.sum((1, 2))
    return before_PHW, moved, inside, error


def _fraction(before_PHW: Tensor, after_PHW: Tensor, inside_PHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shift of less than a pixel that the gradients tell, and the difference without it."""
    mean = (before_PHW + after_PHW) / 2
    slope = torch.stack([_slope(mean, 1), _slope(mean, 2)], dim=-1)
    change = after_PHW - before_PHW
    inner = inside_PHW & _slope_is_inside(inside_PHW)
    way = change.new_zeros(len(change), 2)
    left = change.abs()
    for _ in range(ROUNDS):
        weighed = slope * (inner / (left + ONE_LEVEL))[..., None]
        matrix = torch.einsum("phwi,phwj->pij", weighed, slope)
        target = -torch.einsum("phwi,phw->pi", weighed, change)
        ridge = 1e-6 * matrix.diagonal(dim1=1, dim2=2).sum(1) + TINY
        matrix = matrix + ridge[:, None, None] * torch.eye(2).to(matrix)
        way = torch.linalg.solve(matrix, target).clamp(-1.0, 1.0)
        left = (change + (slope * way[:, None, None]).sum(-1)).abs()
    plain, corrected = ((error * inner).sum((1, 2)) for error in (change.abs(), left))
    better = corrected < plain
    count = inner.sum((1, 2)).clamp(min=1)
    return torch.where(better[:, None], way, 0.0), torch.where(better, corrected, plain) / count


def _slope(frame_PHW: Tensor, dim: int) -> Tensor:
    """Return half the difference of both neighbours."""
    return (frame_PHW.roll(-1, dim) - frame_PHW.roll(1, dim)) / 2


def _slope_is_inside(inside_PHW: Tensor) -> Tensor:
    """Tell where all four neighbours are in the picture and in the overlap."""
    good = inside_PHW.clone()
    for dim in (1, 2):
        size = inside_PHW.shape[dim]
        if size < 3:
            continue
        for step in (1, -1):
            good &= inside_PHW.roll(step, dim)
        index = torch.arange(size, device=inside_PHW.device)
        edge = (index > 0) & (index < size - 1)
        good &= edge[:, None] if dim == 1 else edge
    return good
