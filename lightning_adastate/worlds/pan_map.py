"""The map of PanWorld: what the camera sees at any real position, in closed form."""

# Shapes: ... any leading axes, C colour, H W height / width in pixels.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

LANDMARK_BRIGHTNESS = 0.1
"""Grey level of a landmark."""

Texture = Literal["one_period", "many_periods"]


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return RGB in [0, 1] along a new last axis; hue counts in turns."""
    offset = hue.new_tensor([5.0, 3.0, 1.0])
    k = (offset + hue[..., None] * 6.0) % 6.0
    ramp = torch.minimum(k, 4.0 - k).clamp(0.0, 1.0)
    return value[..., None] * (1.0 - saturation[..., None] * ramp)


def render_map(
    position: Tensor,
    *,
    height: int,
    width: int,
    num_columns: int,
    texture: Texture,
    texture_period: int = 16,
    landmark_columns: Sequence[int] = (),
    landmark_spacing: int = 16,
) -> Tensor:
    """Return what a camera with its left edge at ``position`` sees, ``[..., 3, H, W]`` float32.

    Sky and ground have a slow hue, which says where on the cyclic map one is; the horizon and the
    brightness of both vary fast, which says by how much one has moved. No edge is sharper than a
    pixel, so sub-pixel motion is visible.

    Args:
        position: Map column of the left edge, any real number, ``[...]``.
        height: Rows.
        width: Columns.
        num_columns: Length of the map, after which it repeats.
        texture: ``one_period``: everything fast repeats every ``texture_period`` columns. ``many_periods``: four
            different periods, much harder to learn.
        texture_period: Columns.
        landmark_columns: Widths of the dark landmarks that stand on the map, one after the other and then again.
        landmark_spacing: Columns from one to the next; the first begins at column 0.
    """
    column = position.double()[..., None] + torch.arange(width, dtype=torch.float64)
    turn = (column / num_columns) % 1.0
    angle = 2.0 * math.pi * turn
    period = num_columns / texture_period
    if texture == "one_period":
        relief = 0.9 * torch.sin(period * angle + 1.0)
        horizon = (9.6 + 2.0 * relief) * height / 16.0
        stripes = torch.sin(period * angle + 3.5)
    else:
        relief = 1.8 * torch.sin(5.0 * angle + 1.0) + torch.sin(11.0 * angle + 2.2)
        horizon = (10.5 + relief) * height / 16.0
        stripes = torch.sin(21.0 * angle)
    full = torch.ones_like(turn)
    sky = hsv_to_rgb(turn + 0.5, 0.55 * full, 0.8 + 0.15 * torch.sin(period * angle))
    ground = hsv_to_rgb(turn, 0.75 * full, 0.55 + 0.25 * stripes)
    row = torch.arange(height, dtype=torch.float64)[:, None]
    share = (row + 1.0 - horizon[..., None, :]).clamp(0.0, 1.0)[..., None]
    picture = sky[..., None, :, :] * (1.0 - share) + ground[..., None, :, :] * share
    if landmark_columns:
        cover = covered_share(column, landmark_columns, landmark_spacing)[..., None, :, None]
        picture = picture * (1.0 - cover) + LANDMARK_BRIGHTNESS * cover
    return picture.movedim(-1, -3).float()


def covered_share(column: Tensor, widths: Sequence[int], spacing: int) -> Tensor:
    """Return how much of the pixel from ``column`` to the next a landmark covers, in [0, 1]."""
    block = (column / spacing).floor()
    width = column.new_tensor(widths)[block.long() % len(widths)]
    left = column - block * spacing
    begun = (width - left).clamp(0.0, 1.0)
    coming = (left + 1.0 - spacing).clamp(0.0, 1.0)
    return begun + coming
