"""Scores of any video files, in groups beside each other: motion, consistency and drift, without a network."""

# Shapes: B videos.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from lightning_adastate.evaluation.video_groups import VideoGroup, find_groups, score_groups
from lightning_adastate.evaluation.video_scores import Series, VideoScorer
from lightning_adastate.evaluation.video_tables import (
    Difference,
    differences,
    table_of,
    write_scores,
)
from lightning_adastate.metrics import DynamicDegree, VideoMetrics, VideoSSIM
from lightning_adastate.metrics.video_frames import Flow


@dataclass(frozen=True)
class Evaluation:
    """What videos scored.

    Args:
        groups: The videos, by folder.
        scores: For each group every score of its videos by name, ``[B]`` float64.
        differences: What separates each group from the first.
        settings: Arguments of the metrics.
        series: For each group what changes in each of its videos, by name.
    """

    groups: list[VideoGroup]
    scores: list[dict[str, Tensor]]
    differences: list[Difference]
    settings: dict[str, int | str | None]
    series: list[list[dict[str, Series]]]

    def table(self) -> Table:
        """Return one row per score: means of groups, and differences from the first."""
        return table_of(self.groups, self.scores, self.differences)

    def write(self, folder: Path) -> list[str]:
        """Write ``scores.csv`` and ``scores.json`` into ``folder``; return their names."""
        write_scores(folder, self.groups, self.scores, self.differences, self.settings)
        return ["scores.csv", "scores.json"]

    def write_plots(self, folder: Path) -> list[str]:
        """Write curves over time, motion against consistency and differences into ``folder``; return their names."""
        from lightning_adastate.evaluation.video_plots import write_plots

        return write_plots(folder, self.groups, self.scores, self.differences, self.series)

    def write_pictures(self, folder: Path, *, sheet_seconds: float = 12.0) -> list[str]:
        """Write a side-by-side video and a sheet of key frames into ``folder``; return their names.

        Groups stand beside each other, videos of one name in one row, four at most.

        Args:
            folder: Where to.
            sheet_seconds: Seconds between two key frames.

        Raises:
            ValueError: If ``sheet_seconds`` is not positive.
        """
        from lightning_adastate.evaluation.video_pictures import write_pictures

        return write_pictures(folder, self.groups, sheet_seconds=sheet_seconds)


def evaluate(
    videos: Sequence[str | Path],
    *,
    chunk_frames: int | None = None,
    first_chunk_frames: int | None = None,
    window_frames: int = 24,
    num_parts: int = 5,
    flow: Flow | None = None,
    device: str = "auto",
) -> Evaluation:
    """Score video files. A folder stands for all videos in it; videos of one folder are a group.

    Args:
        videos: Files or folders; other groups are compared with the first.
        chunk_frames: Frames per chunk, for ``boundary_jump`` and ``ssim_seam``; 12 for three latents of Wan.
        first_chunk_frames: Frames of the first chunk if it has fewer; 9 for three latents of Wan.
        window_frames: Frames the model sees back; ``novelty`` compares with older ones.
        num_parts: Parts of the drift error.
        flow: Which optical flow to score, ``dis`` or ``farneback``; ``None`` is none. Needs OpenCV.
        device: Where to compute; ``auto`` is CUDA if there is one.

    Raises:
        ValueError: If a video is missing, unreadable or too short, a number is out of range, there is no such device, or
            a flow is wanted and OpenCV is not installed.
    """
    settings: dict[str, int | str | None] = {
        "chunk_frames": chunk_frames,
        "first_chunk_frames": first_chunk_frames,
        "window_frames": window_frames,
        "num_parts": num_parts,
        "flow": flow,
    }
    scorer = VideoScorer(
        VideoMetrics(
            chunk_frames=chunk_frames,
            first_chunk_frames=first_chunk_frames,
            window_frames=window_frames,
            num_parts=num_parts,
        ),
        VideoSSIM(chunk_frames=chunk_frames, first_chunk_frames=first_chunk_frames),
        None if flow is None else DynamicDegree(flow=flow),
    )
    where = usable_device(device)
    groups = find_groups([Path(video) for video in videos])
    scored = score_groups(groups, scorer, where)
    scores = [
        {name: torch.cat([one.scores[name] for one in videos]) for name in videos[0].scores}
        for videos in scored
    ]
    series = [[one.series for one in videos] for videos in scored]
    return Evaluation(groups, scores, differences(groups, scores), settings, series)


def usable_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is CUDA if there is one.

    Raises:
        ValueError: If it is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's ways to say that there is none
        raise ValueError(
            f"`device` {name!r} cannot be used: {str(error).partition(chr(10))[0]}; there are "
            f"{torch.cuda.device_count()} CUDA devices here"
        ) from error
    return device
