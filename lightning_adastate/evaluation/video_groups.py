"""Which videos are evaluated, in which groups, and what each of them scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from lightning_adastate.data.video_names import SUFFIXES
from lightning_adastate.media.reading import VideoInfo, probe_video, read_pieces
from lightning_adastate.metrics.video_recorder import MIN_FRAMES

if TYPE_CHECKING:
    from lightning_adastate.evaluation.video_scores import ScoredVideo, VideoScorer


@dataclass(frozen=True)
class VideoFile:
    """A video to evaluate.

    Args:
        path: Where it is.
        info: Its frames, size and rate.
    """

    path: Path
    info: VideoInfo


@dataclass(frozen=True)
class VideoGroup:
    """The videos of one folder.

    Args:
        name: The folder's name, or its path if another folder is called so too.
        files: The videos, by name.
    """

    name: str
    files: tuple[VideoFile, ...]

    @property
    def file_names(self) -> list[str]:
        """Name the videos."""
        return [file.path.name for file in self.files]


def find_groups(given: Sequence[Path]) -> list[VideoGroup]:
    """Return the videos, grouped by folder in the order given. A folder stands for all videos in it.

    Raises:
        ValueError: If something is missing, unreadable or too short; it is named.
    """
    folders: dict[Path, dict[str, Path]] = {}
    for path in given:
        for video in _videos_at(path):
            folders.setdefault(video.parent, {})[video.name] = video
    last_names = [folder.resolve().name for folder in folders]
    groups = []
    for folder, videos in folders.items():
        name = folder.resolve().name
        if last_names.count(name) > 1:
            name = str(folder)
        groups.append(VideoGroup(name, tuple(_probe(videos[n]) for n in sorted(videos))))
    return groups


def _videos_at(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    videos = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
    if not videos:
        raise ValueError(f"folder '{path}' holds no videos ({', '.join(SUFFIXES)})")
    return videos


def _probe(path: Path) -> VideoFile:
    info = probe_video(path)
    if info.num_frames < MIN_FRAMES:
        raise ValueError(
            f"video file '{path}' has {info.num_frames} frames; give videos of {MIN_FRAMES} or more"
        )
    return VideoFile(path, info)


def score_groups(
    groups: Sequence[VideoGroup], scorer: VideoScorer, device: torch.device
) -> list[list[ScoredVideo]]:
    """Return, for each group, what its videos scored.

    Videos are read once and in pieces, so memory hardly grows with their length.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeRemainingColumn(),
    )
    frames = sum(file.info.num_frames for group in groups for file in group.files)
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("evaluating", total=frames)

        def pieces(path: Path) -> Iterator[Tensor]:
            for piece in read_pieces(path):
                yield piece[None].to(device)
                progress.advance(task, len(piece))

        return [
            [scorer.score(pieces(file.path), float(file.info.fps)) for file in group.files]
            for group in groups
        ]
