"""Videos in: what a file holds, and its frames, decoded in a process of its own (``media.sandbox``)."""

# Shapes: F frames, C colour, H W height / width in pixels.

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_adastate.media.sandbox import DecodingLimits, as_pair, ask

LIMITS = DecodingLimits()

MAX_BYTES = 16 << 30
"""Pixels of the longest video that is read at once."""


class VideoInfo(NamedTuple):
    """Frames, height, width and frames per second of a video file, as it is shown."""

    num_frames: int
    height: int
    width: int
    fps: Fraction

    def frames_at(self, fps: Fraction | None) -> int:
        """Return how many frames it has at another rate; ``None`` is its own."""
        return self.num_frames if fps is None else int(self.num_frames * fps / self.fps)


def probe_video(path: str | Path, limits: DecodingLimits = LIMITS) -> VideoInfo:
    """Return what a file holds. Decodes its first frame; counts by decoding where the header does not say.

    Args:
        path: The file.
        limits: What decoding it may take.

    Raises:
        ValueError: If it is missing, broken, cut short or holds no video, or takes more than the limits.
    """
    _check_file(path)
    for found in ask({"job": "probe", "path": str(path)}, limits):
        assert isinstance(found, dict)
        frames, height, width, rate, per = found["info"]
    return VideoInfo(frames, height, width, Fraction(rate, per))


def read_video(
    path: str | Path,
    start: int = 0,
    num_frames: int | None = None,
    *,
    fps: Fraction | None = None,
    size: tuple[int, int] | None = None,
    limits: DecodingLimits = LIMITS,
) -> Tensor:
    """Return frames ``start : start + num_frames`` as uint8 ``[F, 3, H, W]``; ``None`` is to the end.

    Args:
        path: The file.
        start: First frame.
        num_frames: How many.
        fps: Take the frames nearest in time to the ticks of this rate, and count those; ``None`` is every frame.
        size: Height and width to bring the pictures to: the shorter side first, then a centre crop.
        limits: What decoding may take.

    Raises:
        ValueError: If the file is missing, broken, holds no video, or is too short, or takes more than the limits.
    """
    if start < 0 or (num_frames is not None and num_frames < 1):
        raise ValueError(f"expected start >= 0 and num_frames >= 1, got {start} and {num_frames}")
    read: list[Tensor] = []
    count = size_in_bytes = 0
    for piece in _pieces(path, start, num_frames, fps=fps, size=size, limits=limits):
        read.append(piece)
        count += len(piece)
        size_in_bytes += piece.numel()
        if size_in_bytes > MAX_BYTES:
            raise ValueError(
                f"video file '{path}' has more than {MAX_BYTES >> 30} GiB of pixels; read it in pieces, or cut it"
            )
    if not count or (num_frames is not None and count < num_frames):
        raise ValueError(
            f"video file '{path}' ends too early: wanted {num_frames or 'any'} frames from frame "
            f"{start}, got {count}"
        )
    return read[0] if len(read) == 1 else torch.cat(read)


def read_pieces(
    path: str | Path,
    piece_frames: int = 32,
    limits: DecodingLimits = LIMITS,
    *,
    fps: Fraction | None = None,
) -> Iterator[Tensor]:
    """Yield all frames in order as uint8 ``[F, 3, H, W]``, decoded once, a piece in memory at a time.

    Args:
        path: The file.
        piece_frames: The most frames of a piece; large pictures come in smaller ones.
        limits: What decoding a piece may take.
        fps: Take the frames nearest in time to the ticks of this rate; ``None`` is every frame.

    Raises:
        ValueError: If the file is missing, broken or holds no video, or takes more than the limits.
    """
    return _pieces(path, 0, None, piece_frames=piece_frames, fps=fps, limits=limits)


def _pieces(
    path: str | Path,
    start: int,
    num_frames: int | None,
    *,
    piece_frames: int = 32,
    fps: Fraction | None = None,
    size: tuple[int, int] | None = None,
    limits: DecodingLimits,
) -> Iterator[Tensor]:
    _check_file(path)
    request = {
        "job": "read",
        "path": str(path),
        "frames": [start, num_frames, piece_frames],
        "fps": as_pair(fps),
        "size": size,
    }
    for pictures in ask(request, limits):
        assert isinstance(pictures, np.ndarray)
        yield torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def _check_file(path: str | Path) -> None:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"video file '{path}' does not exist")
    if not path.stat().st_size:
        raise ValueError(f"video file '{path}' is empty")
