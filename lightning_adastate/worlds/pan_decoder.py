"""Read PanWorld's state off its pixels, exactly and without any network."""

# Shapes: B batch, F frames, C colour, H W height / width in pixels, P crops of the map, D pixels.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.worlds.pan import PanWorld


class PanReading(NamedTuple):
    """What a video of PanWorld shows.

    ``position_BF``: map column of the camera, in half pixels. ``residual_BF``: root mean square
    difference between the picture and the map there, hero left out. ``color_BF3``: mean colour inside
    the hero's square. ``contrast_BF``: root mean square difference between that square and the map
    behind it; small where no hero is drawn. All float64.
    """

    position_BF: Tensor
    residual_BF: Tensor
    color_BF3: Tensor
    contrast_BF: Tensor

    def first(self, num_frames: int) -> PanReading:
        """Return what the video's first frames show."""
        return PanReading(*(each[:, :num_frames] for each in self))


def hero_mask(world: PanWorld) -> Tensor:
    """Return ``[H, W]``, true where the hero stands."""
    mask = torch.zeros(world.height, world.width, dtype=torch.bool)
    mask[world.hero_rows, world.hero_columns] = True
    return mask


def decode_pan(world: PanWorld, video_BFCHW: Tensor) -> PanReading:
    """Return where the camera is, how well the map fits, and the hero's colour, frame by frame.

    The camera's position is that of the nearest crop among all half-pixel crops of the map.

    Raises:
        ValueError: If the frames have another size than the world's.
    """
    if video_BFCHW.shape[2:] != (3, world.height, world.width):
        raise ValueError(
            f"expected frames of 3 x {world.height} x {world.width}, "
            f"got {tuple(video_BFCHW.shape[2:])}"
        )
    video = video_BFCHW.detach().float().cpu()
    scene = ~hero_mask(world)
    crops_PCHW = world.background(torch.arange(2 * world.num_columns) / 2.0)
    crops_PD = crops_PCHW[..., scene].flatten(1)
    frames_BFD = video[..., scene].flatten(2)
    # |f - c|^2 without |f|^2, which all crops share: one matrix product.
    distance_BFP = crops_PD.square().sum(1) - 2.0 * frames_BFD @ crops_PD.T
    best_BF = distance_BFP.argmin(-1)
    residual = (frames_BFD - crops_PD[best_BF]).double().square().mean(-1).sqrt()
    rows, columns = world.hero_rows, world.hero_columns
    hero = video[..., rows, columns].double()
    behind = crops_PCHW[best_BF][..., rows, columns].double()
    edge = 1 if world.hero_size > 2 else 0
    inside = hero[..., edge : world.hero_size - edge, edge : world.hero_size - edge]
    return PanReading(
        best_BF.double() / 2.0,
        residual,
        inside.mean((-2, -1)),
        (hero - behind).square().mean((-3, -2, -1)).sqrt(),
    )


def wrap(distance: Tensor, num_columns: int) -> Tensor:
    """Return a distance on the cyclic map as the shortest way, in (-L/2, L/2]."""
    half = num_columns / 2.0
    return half - (half - distance) % num_columns
