"""What a single frame looks like: light, contrast, colour, sharpness, clipping, and a small copy."""

# Shapes: B videos, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

Flow = Literal["dis", "farneback"]
"""How pixels are followed from frame to frame: dense inverse search, medium preset; or polynomial expansion, slower."""

LUMA = (0.299, 0.587, 0.114)
"""Rec. 601: what players and OpenCV take for grey."""

CLIP_LEVEL = 2.5 / 255.0
"""A pixel counts as clipped within two 8-bit levels of black or white."""

THUMBNAIL = 32
"""Pixels of a small copy's longer side."""


class FrameLooks(NamedTuple):
    """One value per frame, ``[B, F]`` each.

    ``luma``: mean brightness. ``contrast``: standard deviation of the brightness (RMS contrast).
    ``saturation``: mean of ``(max - min) / max`` over the colours, 0 where black. ``colorfulness``:
    Hasler and Suesstrunk's measure, of pixels in [0, 1]. ``sharpness``: variance of the brightness's
    Laplacian, in the frame's own resolution. ``clipped``: share of pixels whose brightness is within two
    8-bit levels of black or white.
    """

    luma: Tensor
    contrast: Tensor
    saturation: Tensor
    colorfulness: Tensor
    sharpness: Tensor
    clipped: Tensor


def luma(video_BFCHW: Tensor) -> Tensor:
    """Return the brightness ``[B, F, H, W]``."""
    red, green, blue = video_BFCHW.unbind(2)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def frame_looks(video_BFCHW: Tensor) -> FrameLooks:
    """Measure every frame of videos ``[B, F, 3, H, W]``, floats in [0, 1]."""
    light = luma(video_BFCHW)
    red, green, blue = video_BFCHW.unbind(2)
    most, least = video_BFCHW.amax(2), video_BFCHW.amin(2)
    rg, yb = red - green, (red + green) / 2 - blue
    spread = (_variance(rg) + _variance(yb)).sqrt()
    offset = (rg.mean((2, 3)).square() + yb.mean((2, 3)).square()).sqrt()
    clipped = (light <= CLIP_LEVEL) | (light >= 1.0 - CLIP_LEVEL)
    return FrameLooks(
        luma=light.mean((2, 3)),
        contrast=_variance(light).sqrt(),
        saturation=torch.where(most > 0, (most - least) / most, 0.0).mean((2, 3)),
        colorfulness=spread + 0.3 * offset,
        sharpness=_variance(_laplacian(light)),
        clipped=clipped.to(light.dtype).mean((2, 3)),
    )


def thumbnails(video_BFCHW: Tensor) -> Tensor:
    """Return small copies ``[B, F, D]`` as unit vectors whose products are normalised cross-correlations.

    Each colour's mean is taken out, so brightness and tint do not count, only structure. Frames without
    any resemble each other entirely and all others not at all: their last number is 1, all others 0.
    """
    batch, frames, _, height, width = video_BFCHW.shape
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = adaptive_avg_pool2d(video_BFCHW.flatten(0, 1), size)
    small = small - small.mean((2, 3), keepdim=True)
    flat = small.flatten(1)
    norm = flat.norm(dim=1, keepdim=True)
    # Below a hundredth of an 8-bit level the structure is rounding.
    real = norm > flat.shape[1] ** 0.5 * 0.01 / 255.0
    unit = torch.cat([torch.where(real, flat / norm.clamp(min=1e-12), 0.0), (~real).to(flat)], 1)
    return unit.reshape(batch, frames, -1)


def _variance(value_BFHW: Tensor) -> Tensor:
    return value_BFHW.var((2, 3), unbiased=False)


def _laplacian(light_BFHW: Tensor) -> Tensor:
    """Return the four-neighbour Laplacian where all neighbours are in the picture; zeros where that is nowhere."""
    height, width = light_BFHW.shape[2:]
    if height < 3 or width < 3:
        return torch.zeros_like(light_BFHW)
    vertical = light_BFHW[..., :-2, 1:-1] + light_BFHW[..., 2:, 1:-1]
    horizontal = light_BFHW[..., 1:-1, :-2] + light_BFHW[..., 1:-1, 2:]
    laplacian: Tensor = vertical + horizontal - 4 * light_BFHW[..., 1:-1, 1:-1]
    return laplacian
