"""What people look at after an evaluation: videos side by side, and a sheet of their key frames."""

# Shapes: F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from lightning_adastate.evaluation.video_groups import VideoFile, VideoGroup
from lightning_adastate.files import whole_file
from lightning_adastate.media.pictures import (
    KeyFrame,
    key_frame_sheet,
    label_picture,
    side_by_side,
)
from lightning_adastate.media.reading import read_pieces, read_video
from lightning_adastate.media.video import VideoWriter, watchable_scale

SHOWN_ROWS = 4
SHOWN_COLUMNS = 6

MOST_WIDTH, MOST_HEIGHT = 1920, 1600
"""Pixels of the side-by-side video; more are averaged down."""

SHEET_HEIGHT = 240
"""Pixels of a key frame in the sheet, at the most."""

FEW_KEY_FRAMES = 8
"""Key frames of a video that is too short for three at the distance asked for."""

BLOCK_FRAMES = 24


class Row(NamedTuple):
    """Videos to stand beside each other, and their labels."""

    name: str
    files: list[VideoFile]
    labels: list[str]


def write_pictures(
    folder: Path, groups: Sequence[VideoGroup], *, sheet_seconds: float = 12.0
) -> list[str]:
    """Write ``side_by_side.mp4`` and ``key_frames.png`` into ``folder``; return their names.

    Args:
        folder: Where to.
        groups: The videos; see ``rows_of``.
        sheet_seconds: Seconds between two key frames.

    Raises:
        ValueError: If ``sheet_seconds`` is not positive.
    """
    rows = rows_of(groups)
    write_side_by_side(folder / "side_by_side.mp4", rows)
    write_key_frames(folder / "key_frames.png", rows, sheet_seconds=sheet_seconds)
    return ["side_by_side.mp4", "key_frames.png"]


def rows_of(groups: Sequence[VideoGroup]) -> list[Row]:
    """Return what stands beside what: groups by their videos' names, or the videos of the only group.

    Where groups share no name, their first videos stand beside each other, and so on. Four rows of six at the most.
    """
    groups = groups[:SHOWN_COLUMNS]
    if len(groups) == 1:
        files = list(groups[0].files)
        starts = range(0, min(len(files), SHOWN_ROWS * SHOWN_ROWS), SHOWN_ROWS)
        parts = [files[start : start + SHOWN_ROWS] for start in starts]
        return [Row("", part, [file.path.name for file in part]) for part in parts]
    labels = [group.name for group in groups]
    by_name = [{file.path.name: file for file in group.files} for group in groups]
    shared = [name for name in by_name[0] if all(name in others for others in by_name)]
    if shared:
        return [Row(name, [g[name] for g in by_name], labels) for name in shared[:SHOWN_ROWS]]
    count = min(SHOWN_ROWS, *(len(group.files) for group in groups))
    found = []
    for number in range(count):
        files = [group.files[number] for group in groups]
        heads = [f"{one}: {file.path.name}" for one, file in zip(labels, files, strict=True)]
        found.append(Row("", files, heads))
    return found


# -- side by side -----------------------------------------------------------------------------------


def write_side_by_side(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows as one video, at the rate of the first; a video that is over stays at its last frame.

    Videos of another rate are shown at that one, those of another size with black borders.
    """
    fps = rows[0].files[0].info.fps
    size, scale = _cell(rows)
    with (
        whole_file(path) as partial,
        VideoWriter(partial, fps=fps, chunk_frames=BLOCK_FRAMES) as writer,
    ):
        sources = [[_blocks(file, size, fps) for file in row.files] for row in rows]
        for _ in range(-(-_longest(rows, fps) // BLOCK_FRAMES)):
            shown = [
                _joined(row, source, scale) for row, source in zip(rows, sources, strict=True)
            ]
            width = max(part.shape[3] for part in shown)
            wide = [pad(part, (0, width - part.shape[3]), value=255) for part in shown]
            writer.append(torch.cat(wide, dim=2))


def _joined(row: Row, sources: Sequence[Iterator[Tensor]], scale: int) -> Tensor:
    """Return the next frames of a row, under its name."""
    shown = side_by_side([next(source) for source in sources], row.labels, scale=scale)
    if not row.name:
        return shown
    head = label_picture(row.name, shown.shape[3]).expand(len(shown), -1, -1, -1)
    return torch.cat([head, shown], dim=2)


def _longest(rows: Sequence[Row], fps: Fraction) -> int:
    """Return the frames of the longest video at that rate."""
    return max(file.info.frames_at(fps) for row in rows for file in row.files)


def _cell(rows: Sequence[Row]) -> tuple[tuple[int, int], int]:
    """Return the size of every video in the picture, and by how much it is enlarged there."""
    first = rows[0].files[0].info
    columns = max(len(row.files) for row in rows)
    room = min(MOST_WIDTH / (columns * first.width), MOST_HEIGHT / (len(rows) * first.height))
    if room >= 1:
        return (first.height, first.width), min(int(room), watchable_scale(first.height))
    return (max(1, int(first.height * room)), max(1, int(first.width * room))), 1


def _blocks(file: VideoFile, size: tuple[int, int], fps: Fraction) -> Iterator[Tensor]:
    """Yield blocks of as many frames each, uint8 ``[F, 3, H, W]``, without end."""
    held: Tensor | None = None
    rate = None if file.info.fps == fps else fps
    for piece in read_pieces(file.path, fps=rate):
        fitted = _fit(piece, size)
        held = fitted if held is None else torch.cat([held, fitted])
        while len(held) > BLOCK_FRAMES:  # one frame stays, to be shown when no more come
            yield held[:BLOCK_FRAMES]
            held = held[BLOCK_FRAMES:]
    assert held is not None
    last = held[-1:]
    yield torch.cat([held, last.expand(BLOCK_FRAMES - len(held), -1, -1, -1)])
    while True:
        yield last.expand(BLOCK_FRAMES, -1, -1, -1)


def _fit(video_FCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring frames to a size; their shape is kept, and what is left is black."""
    height, width = video_FCHW.shape[2:]
    if (height, width) == size:
        return video_FCHW
    factor = min(size[0] / height, size[1] / width)
    inner = (max(1, round(height * factor)), max(1, round(width * factor)))
    scaled = interpolate(video_FCHW.float(), inner, mode="bilinear", antialias=True)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    around = (left, size[1] - inner[1] - left, top, size[0] - inner[0] - top)
    return pad(scaled.round().clamp(0, 255).byte(), around)


# -- key frames -------------------------------------------------------------------------------------


def write_key_frames(path: Path, rows: Sequence[Row], *, sheet_seconds: float = 12.0) -> None:
    """Write a frame of every ``sheet_seconds`` of every video, and its last one, as one picture.

    A video that is too short for three such frames has eight, evenly spread.

    Raises:
        ValueError: If ``sheet_seconds`` is not positive.
    """
    check_sheet_seconds(sheet_seconds)
    videos, labels = [], []
    for row in rows:
        for file, label in zip(row.files, row.labels, strict=True):
            videos.append(key_frames(file, sheet_seconds))
            labels.append(f"{label}\n{row.name}" if row.name else label)
    with whole_file(path) as partial:
        key_frame_sheet(partial, videos, labels)


def check_sheet_seconds(sheet_seconds: float) -> None:
    """Refuse a distance of key frames that is none.

    Raises:
        ValueError: If it is not a positive number.
    """
    if not 0 < sheet_seconds < math.inf:
        raise ValueError(f"`sheet_seconds` must be positive and finite, got {sheet_seconds}")


def key_frames(file: VideoFile, every_seconds: float) -> list[KeyFrame]:
    """Return a frame of every so many seconds and the last one; of a short video eight, evenly spread, or all."""
    info = file.info
    length = Fraction(info.num_frames) / info.fps
    every = Fraction(every_seconds).limit_denominator(1000)
    if length < 2 * every:
        every = length / (FEW_KEY_FRAMES - 1)
    every = max(every, 1 / info.fps)
    shrink = min(1.0, SHEET_HEIGHT / info.height)
    size = (max(1, round(info.height * shrink)), max(1, round(info.width * shrink)))
    wanted = None if shrink == 1.0 else size
    found = read_video(file.path, fps=1 / every, size=wanted)
    frames = [KeyFrame(float(number * every), one) for number, one in enumerate(found)]
    end = float((info.num_frames - 1) / info.fps)
    if end - frames[-1].seconds > float(every) / 4:
        last = read_video(file.path, info.num_frames - 1, 1, size=wanted)[0]
        frames.append(KeyFrame(end, last))
    return frames
