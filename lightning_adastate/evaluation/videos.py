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
from lightning_adastate.evaluation.video_tables import (
    Difference,
    differences,
    table_of,
    write_scores,
)
from lightning_adastate.metrics import VideoMetrics


@dataclass(frozen=True)
class Evaluation:
    """What videos scored.

    Args:
        groups: The videos, by folder.
        scores: For each group every score of its videos by name, ``[B]`` float64.
        differences: What separates each group from the first.
        settings: Arguments of the metrics.
    """

    groups: list[VideoGroup]
    scores: list[dict[str, Tensor]]
    differences: list[Difference]
    settings: dict[str, int | None]

    def table(self) -> Table:
        """Return one row per score: means of groups, and differences from the first."""
        return table_of(self.groups, self.scores, self.differences)

    def write(self, folder: Path) -> list[str]:
        """Write ``scores.csv`` and ``scores.json`` into ``folder``; return their names."""
        write_scores(folder, self.groups, self.scores, self.differences, self.settings)
        return ["scores.csv", "scores.json"]


def evaluate(
    videos: Sequence[str | Path],
    *,
    chunk_frames: int | None = None,
    first_chunk_frames: int | None = None,
    window_frames: int = 24,
    num_parts: int = 5,
    device: str = "auto",
) -> Evaluation:
    """Score video files. A folder stands for all videos in it; videos of one folder are a group.

    Args:
        videos: Files or folders; other groups are compared with the first.
        chunk_frames: Frames per chunk, for ``boundary_jump``; 12 for three latents of Wan.
        first_chunk_frames: Frames of the first chunk if it has fewer; 9 for three latents of Wan.
        window_frames: Frames the model sees back; ``novelty`` compares with older ones.
        num_parts: Parts of the drift error.
        device: Where to compute; ``auto`` is CUDA if there is one.

    Raises:
        ValueError: If a video is missing, unreadable or too short, a number is out of range, or there is no such device.
    """
    settings = {
        "chunk_frames": chunk_frames,
        "first_chunk_frames": first_chunk_frames,
        "window_frames": window_frames,
        "num_parts": num_parts,
    }
    metrics = VideoMetrics(
        chunk_frames=chunk_frames,
        first_chunk_frames=first_chunk_frames,
        window_frames=window_frames,
        num_parts=num_parts,
    )
    where = usable_device(device)
    groups = find_groups([Path(video) for video in videos])
    scores = score_groups(groups, metrics, where)
    return Evaluation(groups, scores, differences(groups, scores), settings)


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
