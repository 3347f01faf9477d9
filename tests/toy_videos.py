"""Videos whose motion is known to the pixel, shared by the tests of the video metrics."""

import torch

SIZE = (21, 33)


def scene(height, width, *, blur=5, seed=0):
    """A random map, smooth enough that a pixel resembles its neighbour."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(3, 1, height + blur - 1, width + blur - 1, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise, blur, stride=1)[:, 0]
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def views(places, size=SIZE, **options):
    """One video ``[1, F, 3, H, W]`` whose frame f shows the map from ``places[f]`` (row, column)."""
    height, width = size
    top = max(row for row, _ in places) + height
    right = max(column for _, column in places) + width
    world = scene(top, right, **options)
    frames = [world[:, r : r + height, c : c + width] for r, c in places]
    return torch.stack(frames)[None]


def still(frames=12, **options):
    return views([(0, 0)] * frames, **options)


def pan(frames=12, down=1, right=2, **options):
    return views([(down * t, right * t) for t in range(frames)], **options)


def resets(frames=24, every=8, right=2, **options):
    return views([(0, right * (t % every)) for t in range(frames)], **options)
