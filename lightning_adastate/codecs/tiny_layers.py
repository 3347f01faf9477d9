"""The layers of tiny video codecs, under the names that their files use, and their loading."""

# Shapes: N frames of all streams (batch first), B batch, F frames, C channels, H W height / width.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from lightning_adastate.weights.files import WeightFiles

RECALLS = 3
"""Blocks that look one frame back, at each size of the picture."""

GROWTH = (1, 2, 2)
"""How many frames each level of the decoder makes of one; the encoder's levels undo it, last first."""

Memory = Mapping[str, Tensor]
"""The last input frame of each block that looks back, ``[B, C, H, W]``, by the layer's number."""


class Squash(nn.Module):
    """Bend values softly into (-3, 3)."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return 3 tanh(x / 3)."""
        return torch.tanh(x_NCHW / 3.0) * 3.0


class Recall(nn.Module):
    """Three convolutions of a frame and the one before it, added to the frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv(2 * width, width), nn.ReLU(), conv(width, width), nn.ReLU(), conv(width, width)
        )

    def forward(self, x_NCHW: Tensor, before_NCHW: Tensor) -> Tensor:
        """Return as many frames; ``before`` holds the frame before each."""
        return functional.relu(self.conv(torch.cat([x_NCHW, before_NCHW], dim=1)) + x_NCHW)


class Grow(nn.Module):
    """Make frames twice as high and wide, and ``times`` as many.

    The file's order is to enlarge, then to mix channels pixel by pixel. The other order gives the same for a
    quarter of the work.
    """

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(width, times * width, 1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the frames, those of one input in a row."""
        mixed: Tensor = self.conv(x_NCHW)
        mixed = rearrange(mixed, "n (t c) h w -> (n t) c h w", t=self.times)
        return functional.interpolate(mixed, scale_factor=2.0, mode="nearest")


class Pool(nn.Module):
    """Make one frame of ``times`` in a row."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(times * width, width, 1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return a mix of the frames' channels."""
        joined = rearrange(x_NCHW, "(n t) c h w -> n (t c) h w", t=self.times)
        pooled: Tensor = self.conv(joined)
        return pooled


def conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a 3 x 3 convolution."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def decoder(latent_channels: int, widths: Sequence[int], pixel_channels: int) -> nn.Sequential:
    """Return a decoder; its layers' numbers are those of the files."""
    layers: list[nn.Module] = [Squash(), conv(latent_channels, widths[0]), nn.ReLU()]
    for width, narrower, times in zip(widths[:-1], widths[1:], GROWTH, strict=True):
        layers += [Recall(width) for _ in range(RECALLS)]
        # The identity stands where the files' layer without weights enlarges; `Grow` does it.
        layers += [nn.Identity(), Grow(width, times), conv(width, narrower, bias=False)]
    return nn.Sequential(*layers, nn.ReLU(), conv(widths[-1], pixel_channels))


def encoder(latent_channels: int, width: int, pixel_channels: int) -> nn.Sequential:
    """Return an encoder; its layers' numbers are those of the files."""
    layers: list[nn.Module] = [conv(pixel_channels, width), nn.ReLU()]
    for times in reversed(GROWTH):
        layers += [Pool(width, times), conv(width, width, stride=2, bias=False)]
        layers += [Recall(width) for _ in range(RECALLS)]
    return nn.Sequential(*layers, conv(width, latent_channels))


def run(
    half: nn.Sequential, frames_BFCHW: Tensor, memory: Memory
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what a half makes of the next frames, and the memory after them."""
    batch = len(frames_BFCHW)
    x = frames_BFCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    kept = {}
    for number, layer in half.named_children():
        if not isinstance(layer, Recall):
            x = layer(x)
            continue
        x_BFCHW = x.unflatten(0, (batch, -1))
        first = memory[number][:, None] if memory else torch.zeros_like(x_BFCHW[:, :1])
        before = torch.cat([first, x_BFCHW[:, :-1]], dim=1).flatten(0, 1)
        kept[number] = x_BFCHW[:, -1].clone()
        x = layer(x, before)
    return x.unflatten(0, (batch, -1)), kept


def load(path: str) -> dict[str, nn.Sequential]:
    """Return the frozen halves of a file, ``decoder`` and, if it is there, ``encoder``.

    Raises:
        ValueError: If the file cannot be read, or holds something else.
    """
    files = WeightFiles(path)

    def width(name: str, axis: int = 0) -> int:
        if name not in files.names:
            raise ValueError(f"{path!r} is no tiny video codec: it lacks {name!r}")
        return files.shape(name)[axis]

    channels, pixels = width("decoder.1.weight", 1), width("decoder.22.weight")
    if pixels != 3:
        raise ValueError(
            f"{path!r} is of another model (Wan2.2's, HunyuanVideo 1.5's): its decoder gives {pixels} "
            "values per pixel, Wan2.1's gives 3"
        )
    widths = [width(f"decoder.{number}.weight") for number in (1, 8, 14, 20)]
    with torch.device("meta"):
        halves = {"decoder": decoder(channels, widths, pixels)}
        if any(name.startswith("encoder.") for name in files.names):
            halves["encoder"] = encoder(channels, width("encoder.0.weight"), pixels)
    weights = _fitting(nn.ModuleDict(halves).state_dict(), files, path)
    for name, half in halves.items():
        own = {
            k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")
        }
        half.load_state_dict(own, assign=True)
        half.eval().requires_grad_(requires_grad=False)
    return halves


def _fitting(own: Mapping[str, Tensor], files: WeightFiles, path: str) -> dict[str, Tensor]:
    """Return the file's tensors.

    Raises:
        ValueError: Naming the first that is missing, unexpected or misshapen.
    """
    read = {name: files[name] for name in files.names}
    for name, wanted in own.items():
        # A level that doubles no frames may keep the weights of one that does; its last frame's count.
        if name in read and name.startswith("decoder.") and name.endswith(".conv.weight"):
            read[name] = read[name][-len(wanted) :]
    problems = {
        "missing": sorted(own.keys() - read.keys()),
        "unexpected": sorted(read.keys() - own.keys()),
        "misshapen": [
            f"{name} is {tuple(read[name].shape)}, expected {tuple(own[name].shape)}"
            for name in sorted(own.keys() & read.keys())
            if read[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        found = [f"{len(n)} {kind} ({n[0]}, ...)" for kind, n in problems.items() if n]
        raise ValueError(f"{path!r} does not fit Wan2.1's tiny codec: {'; '.join(found)}")
    return read
