"""Whether a video holds together: flicker, seams between chunks, returns to the start, and what is new."""

# Shapes: B videos, F frames, D values of a small copy.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.metrics.video_base import CurveMetric, third
from lightning_adastate.metrics.video_recorder import VideoCurves

LEAST_DIFFERENCE = 0.1 / 255.0
"""Difference inside chunks that a seam is compared with, at the least: a tenth of an 8-bit level."""

HOME = 0.95
AWAY = 0.8
"""Likeness to the first frame, as a share of the second frame's, above which a frame is the start again,
and below which it has left."""

LEAST_LIKENESS = 0.5
"""Where the second frame resembles the first less, there is no start to return to."""

ROWS = 256
"""Frames that are compared with all older ones at a time."""


class ConsistencyScores(NamedTuple):
    """One value per video, ``[B]`` float64. Likeness is normalised cross-correlation of small copies.

    ``flicker``: VBench's temporal flickering, ``(255 - mean absolute difference) / 255`` of 8-bit frames;
    1 is none. ``boundary_jump``: mean difference across chunk boundaries over that inside chunks; 1 is no
    seam, NaN without chunks or where nothing moves. ``to_previous``: mean likeness to the frame before.
    ``to_first``: mean likeness of the last third to the first frame. ``return_rate``: share of the last
    third that is as like the first frame as 0.95 of the second frame's likeness. ``comebacks``: how often
    a video that had left the start (0.8) is back (0.95). ``novelty``: mean of 1 - the best likeness to any
    frame older than the window; NaN if none is.
    """

    flicker: Tensor
    boundary_jump: Tensor
    to_previous: Tensor
    to_first: Tensor
    return_rate: Tensor
    comebacks: Tensor
    novelty: Tensor


class Chunks(NamedTuple):
    """How many pixel frames a chunk has, and the first one (Wan: 12 and 9 for three latents)."""

    frames: int
    first_frames: int


def consistency_scores(
    curves: VideoCurves, *, chunks: Chunks | None = None, window_frames: int = 24
) -> ConsistencyScores:
    """Score videos by their curves."""
    small = curves.small.double()
    difference = curves.difference.double()
    likeness = (small * small[:, :1]).sum(-1)
    second, late = likeness[:, 1:2], likeness[:, -third(curves.num_frames) :]
    has_start = second[:, 0] >= LEAST_LIKENESS
    returns = (late > HOME * second).double().mean(1)
    return ConsistencyScores(
        flicker=1.0 - difference.mean(1),
        boundary_jump=_boundary_jump(difference, chunks),
        to_previous=(small[:, 1:] * small[:, :-1]).sum(-1).mean(1),
        to_first=late.mean(1),
        return_rate=torch.where(has_start, returns, torch.nan),
        comebacks=torch.where(has_start, _comebacks(likeness, second), torch.nan),
        novelty=_novelty(small, window_frames),
    )


def _boundary_jump(difference_BF: Tensor, chunks: Chunks | None) -> Tensor:
    batch, steps = difference_BF.shape
    nothing = difference_BF.new_full((batch,), torch.nan)
    if chunks is None:
        return nothing
    into = torch.arange(1, steps + 1, device=difference_BF.device) - chunks.first_frames
    seam = (into >= 0) & (into % chunks.frames == 0)
    if not seam.any() or seam.all():
        return nothing
    across, inside = difference_BF[:, seam].mean(1), difference_BF[:, ~seam].mean(1)
    moves = torch.maximum(across, inside) >= LEAST_DIFFERENCE
    return torch.where(moves, across / inside.clamp(min=LEAST_DIFFERENCE), nothing)


def _comebacks(likeness_BF: Tensor, second_B1: Tensor) -> Tensor:
    """Count how often the start is reached again from away; what lies between counts as neither."""
    home, away = likeness_BF > HOME * second_B1, likeness_BF < AWAY * second_B1
    index = torch.arange(likeness_BF.shape[1], device=likeness_BF.device)
    last = torch.where(home | away, index, 0).cummax(dim=1).values
    at_home = home.gather(1, last)
    return (at_home[:, 1:] & ~at_home[:, :-1]).sum(1).double()


def _novelty(small_BFD: Tensor, window_frames: int) -> Tensor:
    """Compare every frame with all that have left the window."""
    frames = small_BFD.shape[1]
    first = window_frames + 1
    if frames <= first:
        return small_BFD.new_full((len(small_BFD),), torch.nan)
    index = torch.arange(frames, device=small_BFD.device)
    best = []
    for start in range(first, frames, ROWS):
        rows = index[start : start + ROWS]
        like = small_BFD[:, rows] @ small_BFD[:, : int(rows[-1]) - window_frames].transpose(1, 2)
        older = index[: like.shape[2]] < (rows - window_frames)[:, None]
        best.append(like.masked_fill(~older, -1.0).amax(2))
    return (1.0 - torch.cat(best, dim=1).mean(1)).clamp(min=0.0)


class VideoConsistency(CurveMetric):
    """Average ``ConsistencyScores``: whether frames agree with their neighbours, the start and the past.

    What they reward wrongly: a frozen video scores 1, the ideal, in ``flicker``, ``to_previous`` and
    ``to_first``; so read it beside ``VideoDynamics``. ``return_rate`` is 1 for it too, ``comebacks`` is 0.
    Good motion lowers ``flicker``. ``to_first`` also punishes what should change. ``novelty`` is near 1
    for noise and for collapse into garbage: something new is not something good. Brightness and tint do
    not count in likeness (``VideoDrift`` has them); a repeated texture may look like a return.

    Args:
        chunk_frames: Pixel frames per chunk; ``None`` leaves ``boundary_jump`` out.
        first_chunk_frames: Those of the first chunk, if it has fewer; ``None`` is as many.
        window_frames: Pixel frames the model sees back; only older ones count for ``novelty``.

    Raises:
        ValueError: If a number is too small.
    """

    names = ConsistencyScores._fields

    def __init__(
        self,
        *,
        chunk_frames: int | None = None,
        first_chunk_frames: int | None = None,
        window_frames: int = 24,
    ) -> None:
        super().__init__()
        self.chunks = chunk_layout(chunk_frames, first_chunk_frames)
        if window_frames < 1:
            raise ValueError(f"`window_frames` must be 1 or more, got {window_frames}")
        self.window_frames = window_frames

    def scores(self, curves: VideoCurves) -> ConsistencyScores:
        """Return ``ConsistencyScores``."""
        return consistency_scores(curves, chunks=self.chunks, window_frames=self.window_frames)


def chunk_layout(chunk_frames: int | None, first_chunk_frames: int | None) -> Chunks | None:
    """Return where chunks begin, or ``None`` if that is not known.

    Raises:
        ValueError: If a number is too small, or only the first chunk is known.
    """
    if chunk_frames is None:
        if first_chunk_frames is not None:
            raise ValueError("`first_chunk_frames` needs `chunk_frames`")
        return None
    first = chunk_frames if first_chunk_frames is None else first_chunk_frames
    if chunk_frames < 2 or first < 1:
        raise ValueError(
            f"`chunk_frames` must be 2 or more and `first_chunk_frames` 1 or more, got {chunk_frames} "
            f"and {first}"
        )
    return Chunks(chunk_frames, first)
