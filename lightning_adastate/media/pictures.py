"""Pictures of several videos for people: side by side as a video, or as a sheet of frames."""

# Shapes: F frames, C colour, H W height / width in pixels. Pixels are floats in [0, 1] or uint8.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from lightning_adastate.media.video import to_uint8, upscale, watchable_scale

DPI = 100
LABEL_HEIGHT = 28

SMOOTH_HEIGHT = 64
"""Frames of fewer pixels are shown as squares in a sheet of key frames."""


def side_by_side(
    videos: Sequence[Tensor], labels: Sequence[str], *, scale: int | None = None, gap: int = 8
) -> Tensor:
    """Return videos ``[F, 3, H, W]`` next to each other under their labels, uint8 ``[F, 3, H', W']``.

    Args:
        videos: Of one size; a shorter one stays at its last frame.
        labels: One per video.
        scale: Upscale by this first; ``None`` makes tiny videos large enough to watch.
        gap: White pixels between two videos.

    Raises:
        ValueError: If there is none, or labels or sizes do not fit.
    """
    _check(videos, labels)
    height = videos[0].shape[2]
    scale = watchable_scale(height) if scale is None else scale
    longest = max(len(video) for video in videos)
    columns: list[Tensor] = []
    for video, label in zip(videos, labels, strict=True):
        large = upscale(to_uint8(video), scale)
        large = torch.cat([large, large[-1:].expand(longest - len(large), -1, -1, -1)])
        head = label_picture(label, large.shape[3]).expand(longest, -1, -1, -1)
        column = torch.cat([head, large], dim=2)
        if columns:
            columns.append(torch.full((longest, 3, column.shape[2], gap), 255, dtype=torch.uint8))
        columns.append(column)
    return torch.cat(columns, dim=3)


def label_picture(label: str, width: int, height: int = LABEL_HEIGHT) -> Tensor:
    """Return dark text on white, uint8 ``[3, height, width]``, small enough to fit."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    # A character is about 0.62 times as wide as it is high; 0.72 points are one pixel.
    size = min(0.55 * height, 0.95 * width / (0.62 * max(1, len(label)))) * 72 / DPI
    figure.text(0.5, 0.5, label, ha="center", va="center", fontsize=max(size, 1.0))
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return torch.from_numpy(picture).permute(2, 0, 1)


def contact_sheet(
    path: str | Path,
    videos: Sequence[Tensor],
    labels: Sequence[str],
    *,
    num_columns: int = 8,
    title: str = "",
) -> None:
    """Write a PNG with one row per video and ``num_columns`` evenly spaced frames, first and last too.

    Args:
        path: Where to.
        videos: Each ``[F, 3, H, W]``, of one size.
        labels: One per video.
        num_columns: Frames of each to show.
        title: Above all.

    Raises:
        ValueError: If there is none, or labels or sizes do not fit.
    """
    _check(videos, labels)
    if num_columns < 1:
        raise ValueError(f"`num_columns` must be 1 or more, got {num_columns}")
    height, width = videos[0].shape[2:]
    cell = 1.6
    figure = Figure(
        figsize=(cell * num_columns + 1.6, cell * height / width * len(videos) + 0.8),
        dpi=DPI,
        layout="constrained",
    )
    axes = figure.subplots(len(videos), num_columns, squeeze=False)
    for row, (video, label) in enumerate(zip(videos, labels, strict=True)):
        for axis, index in zip(axes[row], _spread(len(video), num_columns), strict=True):
            picture = to_uint8(video[index]).permute(1, 2, 0).numpy()
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(f"frame {index}", fontsize=8, pad=2)
        axes[row][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


class KeyFrame(NamedTuple):
    """A frame ``[3, H, W]`` of a video, and when it is shown."""

    seconds: float
    picture_CHW: Tensor


def key_frame_sheet(
    path: str | Path,
    videos: Sequence[Sequence[KeyFrame]],
    labels: Sequence[str],
    *,
    num_columns: int = 10,
) -> None:
    """Write a PNG of every video's key frames under their times; long videos go on in the next line.

    Args:
        path: Where to.
        videos: The key frames of each, in order.
        labels: One per video.
        num_columns: Frames in a line.

    Raises:
        ValueError: If there is none, or labels do not fit.
    """
    if not videos or len(videos) != len(labels) or not all(videos):
        raise ValueError(
            f"expected key frames and one label per video, got {len(labels)} for {len(videos)} videos"
        )
    columns = min(num_columns, max(len(frames) for frames in videos))
    lines = [
        (label if start == 0 else "", frames[start : start + columns])
        for frames, label in zip(videos, labels, strict=True)
        for start in range(0, len(frames), columns)
    ]
    height, width = videos[0][0].picture_CHW.shape[1:]
    cell = 1.7
    size = (cell * columns + 1.8, (cell * height / width + 0.22) * len(lines) + 0.2)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for row, (label, frames) in zip(axes, lines, strict=True):
        for axis in row[len(frames) :]:
            axis.set_axis_off()
        for axis, frame in zip(row, frames, strict=False):
            _show(axis, frame)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(path, format="png")


def _show(axis: Axes, frame: KeyFrame) -> None:
    picture = to_uint8(frame.picture_CHW).permute(1, 2, 0).numpy()
    smooth = "nearest" if len(picture) < SMOOTH_HEIGHT else "antialiased"
    axis.imshow(picture, interpolation=smooth)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(clock_text(frame.seconds), fontsize=8, pad=2)


def clock_text(seconds: float) -> str:
    """Return ``1:02:03``, ``2:03``, or ``2.4 s`` where there is no minute."""
    if seconds < 60:
        return f"{round(seconds, 1):g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _spread(num_frames: int, num_columns: int) -> list[int]:
    last = num_frames - 1
    return [round(last * i / max(1, num_columns - 1)) for i in range(num_columns)]


def _check(videos: Sequence[Tensor], labels: Sequence[str]) -> None:
    if not videos or len(videos) != len(labels):
        raise ValueError(
            f"expected one label per video, got {len(labels)} for {len(videos)} videos"
        )
    shapes = {tuple(video.shape[1:]) for video in videos}
    if len(shapes) > 1 or videos[0].ndim != 4 or videos[0].shape[1] != 3:
        raise ValueError(f"expected videos [F, 3, H, W] of one size, got {sorted(shapes)}")
    if any(len(video) == 0 for video in videos):
        raise ValueError("expected videos with at least one frame")
