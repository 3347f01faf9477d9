"""Structural similarity (SSIM) to the first frame, and across the borders of chunks."""

# Shapes: B videos, F frames, C colour, H W height / width in pixels, K frames or steps that are measured.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from lightning_adastate.metrics.video_base import DEFAULT_FPS, VideoMetric, third
from lightning_adastate.metrics.video_consistency import Chunks, chunk_layout
from lightning_adastate.metrics.video_frames import luma
from lightning_adastate.metrics.video_recorder import as_levels

SSIM_SIDE = 256
"""SSIM is taken where the shorter side is about so long, as its authors do."""

LEAST_SIDE = 11
"""Pixels of SSIM's window; smaller pictures have none."""

EVERY = 8
"""Every so many frames one is compared with the first."""


class SSIMCurves(NamedTuple):
    """SSIM of the brightness, float32 on the CPU, ``[B, K]`` each.

    ``first``: of every eighth frame to the first one. ``seam``: of the first frame of a chunk to the frame
    before it. ``inside``: of the frame in the middle of a chunk to the frame before it.
    """

    first: Tensor
    seam: Tensor
    inside: Tensor


class SSIMScores(NamedTuple):
    """One value per video, ``[B]`` float64; 1 is the same picture.

    ``ssim_first``: mean over the last third of the video; NaN below nine frames. ``ssim_inside``: mean over
    steps inside chunks, ``ssim_seam``: over those across their borders; NaN without chunks. Pictures
    below 11 pixels have none.
    """

    ssim_first: Tensor
    ssim_inside: Tensor
    ssim_seam: Tensor


def frame_ssim(one_PHW: Tensor, other_PHW: Tensor) -> Tensor:
    """Return the SSIM of pairs of pictures in [0, 1], ``[P]`` (Wang et al., 2004: Gaussian of 1.5 pixels; borders are reflected)."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    if min(one_PHW.shape[1:]) < LEAST_SIDE:
        return one_PHW.new_full((len(one_PHW),), torch.nan)
    found = ssim(one_PHW[:, None], other_PHW[:, None], data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.reshape(len(one_PHW))


class SSIMRecorder:
    """Measure videos piece by piece. Of the pixels the first and the last frame are kept, averaged down.

    Args:
        chunks: Where chunks begin; ``None`` leaves borders out.
    """

    def __init__(self, chunks: Chunks | None = None) -> None:
        self.chunks = chunks
        self._first: Tensor | None = None
        self._last: Tensor | None = None
        self._num_frames = 0
        self._found: dict[str, list[Tensor]] = {name: [] for name in SSIMCurves._fields}

    @torch.no_grad()
    def append(self, video_BFCHW: Tensor) -> None:
        """Add the next frames ``[B, F, 3, H, W]``: floats in [0, 1] or uint8."""
        if not video_BFCHW.shape[1]:
            return
        light = luma(as_levels(video_BFCHW))
        factor = max(1, round(min(light.shape[2:]) / SSIM_SIDE))
        light = avg_pool2d(light, factor) if factor > 1 else light
        first = light[:, :1] if self._first is None else self._first
        before = torch.cat([light[:, :1] if self._last is None else self._last, light[:, :-1]], 1)
        for offset in range(light.shape[1]):
            now = light[:, offset]
            for name in self._wanted(self._num_frames + offset):
                other = first[:, 0] if name == "first" else before[:, offset]
                self._found[name].append(frame_ssim(other, now).cpu())
        self._first, self._last = first.clone(), light[:, -1:].clone()
        self._num_frames += light.shape[1]

    def curves(self) -> SSIMCurves:
        """Return what was measured so far.

        Raises:
            ValueError: If nothing was.
        """
        if self._first is None:
            raise ValueError("expected videos, got no frame")
        none = torch.zeros(len(self._first), 0)
        return SSIMCurves(
            *(torch.stack(found, dim=1) if found else none for found in self._found.values())
        )

    def _wanted(self, frame: int) -> list[str]:
        """Name the curves that a frame has a value in."""
        wanted = ["first"] if frame and frame % EVERY == 0 else []
        if self.chunks is None or not frame:
            return wanted
        into = (frame - self.chunks.first_frames) % self.chunks.frames
        if frame >= self.chunks.first_frames and into == 0:
            wanted.append("seam")
        elif frame > self.chunks.first_frames and into == self.chunks.frames // 2:
            wanted.append("inside")
        return wanted


class VideoSSIM(VideoMetric[SSIMCurves]):
    """Average ``SSIMScores``: how much of the first frame's structure stays, and whether chunks join.

    What they reward wrongly: a frozen video scores 1 in all. ``ssim_first`` also punishes what should change,
    and a shift of a few pixels as much as another scene. A seam is worse than the steps beside it only as far
    as ``ssim_seam`` is below ``ssim_inside``; fast motion lowers both.

    Args:
        chunk_frames: Pixel frames per chunk; ``None`` leaves the borders out.
        first_chunk_frames: Those of the first chunk, if it has fewer; ``None`` is as many.

    Raises:
        ValueError: If a number is too small.
    """

    names = SSIMScores._fields

    def __init__(
        self, *, chunk_frames: int | None = None, first_chunk_frames: int | None = None
    ) -> None:
        super().__init__()
        self.chunks = chunk_layout(chunk_frames, first_chunk_frames)

    def recorder(self, fps: float = DEFAULT_FPS) -> SSIMRecorder:
        """Return an ``SSIMRecorder``; the rate does not matter to it."""
        del fps
        return SSIMRecorder(self.chunks)

    def scores(self, curves: SSIMCurves) -> SSIMScores:
        """Return ``SSIMScores``."""
        first = curves.first.double()
        late = first[:, -third(first.shape[1]) :]
        # The mean of nothing is NaN.
        return SSIMScores(
            late.mean(1), curves.inside.double().mean(1), curves.seam.double().mean(1)
        )
