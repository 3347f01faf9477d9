"""Everything the video metrics look at, frame by frame, so that a long video is read once and in pieces."""

# Shapes: B videos, F frames, C colour, H W height / width in pixels, D values of a small copy.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from lightning_adastate.metrics.video_frames import FrameLooks, frame_looks, luma, thumbnails
from lightning_adastate.metrics.video_shift import global_shift

SHIFT_SIDE = 240
"""Shifts are measured in a picture averaged down while its shorter side stays this long."""

PIECE_PIXELS = 8 * 480 * 832
"""Pixels that are worked on at a time."""

MIN_FRAMES = 4
"""The shortest video with a first and a last third of its steps, and a middle."""


NUM_STEP_VALUES = 4
"""Kept per step: difference, way down, way right, residual."""

FIRST_ROOM = 256
"""Frames there is room for at first."""


class VideoCurves(NamedTuple):
    """A video as curves, float32 on the CPU.

    ``looks``: light, contrast, ... per frame, ``[B, F]`` each. ``small``: small copies ``[B, F, D]``, unit
    vectors. ``difference``: mean absolute difference to the frame before, in 8-bit levels over 255,
    ``[B, F - 1]``. ``way``: global shift from the frame before, pixels down and right, ``[B, F - 1, 2]``.
    ``residual``: mean absolute difference of the brightness that the shift does not explain.
    """

    looks: FrameLooks
    small: Tensor
    difference: Tensor
    way: Tensor
    residual: Tensor

    @property
    def num_frames(self) -> int:
        """Count the frames."""
        return self.small.shape[1]


class CurveRecorder:
    """Measure videos piece by piece. Of the pixels only the last frame is kept.

    Memory grows by one small copy and a dozen numbers per frame: 7 KB for wide pictures, so 0.4 GB for an
    hour at 16 frames per second, and up to as much again in reserve.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None
        # One block that doubles: small tensors kept between large ones would fragment the heap for good.
        self._kept_BFV: Tensor | None = None
        self._num_frames = 0

    def append(self, video_BFCHW: Tensor) -> None:
        """Add the next frames ``[B, F, 3, H, W]``: floats in [0, 1] or uint8.

        Raises:
            ValueError: If they are no RGB frames, or of another size than those before.
        """
        if video_BFCHW.ndim != 5 or video_BFCHW.shape[2] != 3:
            raise ValueError(
                f"expected videos [B, F, 3, H, W], got shape {tuple(video_BFCHW.shape)}"
            )
        last = self._last
        if last is not None and (
            last.shape[0] != video_BFCHW.shape[0] or last.shape[2:] != video_BFCHW.shape[2:]
        ):
            raise ValueError(
                f"expected {last.shape[0]} videos of {tuple(last.shape[3:])} as before, got "
                f"{video_BFCHW.shape[0]} of {tuple(video_BFCHW.shape[3:])}"
            )
        pixels = video_BFCHW.shape[0] * video_BFCHW.shape[3] * video_BFCHW.shape[4]
        for piece in video_BFCHW.split(max(1, PIECE_PIXELS // max(1, pixels)), dim=1):
            self._measure(as_levels(piece))

    def curves(self) -> VideoCurves:
        """Return what was measured so far.

        Raises:
            ValueError: If there are fewer than four frames.
        """
        frames = self._num_frames
        if frames < MIN_FRAMES or self._kept_BFV is None:
            raise ValueError(f"expected videos of {MIN_FRAMES} frames or more, got {frames}")
        kept = self._kept_BFV[:, :frames].clone()
        looks = len(FrameLooks._fields)
        step = kept[:, 1:, looks : looks + NUM_STEP_VALUES]
        return VideoCurves(
            FrameLooks(*kept[..., :looks].unbind(-1)),
            small=kept[..., looks + NUM_STEP_VALUES :],
            difference=step[..., 0],
            way=step[..., 1:3],
            residual=step[..., 3],
        )

    @torch.no_grad()
    def _measure(self, piece_BFCHW: Tensor) -> None:
        if not piece_BFCHW.shape[1]:
            return
        joined = piece_BFCHW
        if self._last is not None:
            joined = torch.cat([self._last, piece_BFCHW], dim=1)
        difference = (joined[:, 1:] - joined[:, :-1]).abs().mean((2, 3, 4))
        way, residual = _shifts(luma(joined))
        step = torch.cat([difference[..., None], way, residual[..., None]], dim=-1)
        if self._last is None:  # the first frame has no step before it
            step = pad(step, (0, 0, 1, 0))
        looks = torch.stack(frame_looks(piece_BFCHW), dim=-1)
        self._keep(torch.cat([looks, step, thumbnails(piece_BFCHW)], dim=-1))
        if self._last is None:
            self._last = piece_BFCHW[:, -1:].clone()
        else:
            self._last.copy_(piece_BFCHW[:, -1:])

    def _keep(self, measured_BFV: Tensor) -> None:
        start = self._num_frames
        self._num_frames = start + measured_BFV.shape[1]
        kept = self._kept_BFV
        if kept is None or kept.shape[1] < self._num_frames:
            batch, _, values = measured_BFV.shape
            room = max(2 * self._num_frames, FIRST_ROOM)
            grown = torch.zeros(batch, room, values)
            if kept is not None:
                grown[:, :start] = kept[:, :start]
            kept = self._kept_BFV = grown
        kept[:, start : self._num_frames] = measured_BFV.cpu()


def video_curves(video_BFCHW: Tensor) -> VideoCurves:
    """Measure whole videos ``[B, F, 3, H, W]``: floats in [0, 1] or uint8.

    Raises:
        ValueError: If they are no RGB videos of four frames or more.
    """
    recorder = CurveRecorder()
    recorder.append(video_BFCHW)
    return recorder.curves()


def as_levels(video_BFCHW: Tensor) -> Tensor:
    """Return what an 8-bit file would show: pixels are compared as they are watched."""
    if video_BFCHW.dtype == torch.uint8:
        return video_BFCHW.float() / 255.0
    return (video_BFCHW.detach().float().clamp(0.0, 1.0) * 255.0).round() / 255.0


def _shifts(light_BFHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return way ``[B, F - 1, 2]`` in the frame's own pixels, and residual ``[B, F - 1]``."""
    batch, frames = light_BFHW.shape[:2]
    factor = max(1, min(light_BFHW.shape[2:]) // SHIFT_SIDE)
    small = avg_pool2d(light_BFHW, factor) if factor > 1 else light_BFHW
    if frames < 2:
        return light_BFHW.new_zeros(batch, 0, 2), light_BFHW.new_zeros(batch, 0)
    found = global_shift(small[:, :-1].flatten(0, 1), small[:, 1:].flatten(0, 1))
    shape = (batch, frames - 1)
    return found.way_P2.unflatten(0, shape) * factor, found.residual_P.unflatten(0, shape)
