"""Dynamic degree by VBench's rule, with a classical optical flow (OpenCV) in place of RAFT."""

# Shapes: B videos, F frames, C colour, H W height / width in pixels, P pairs of frames.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_adastate.metrics.video_base import DEFAULT_FPS, VideoMetric
from lightning_adastate.metrics.video_frames import Flow, luma
from lightning_adastate.metrics.video_recorder import as_levels

SAMPLES_PER_SECOND = 8.0
TOP_SHARE = 0.05
"""A pair's speed is the mean over the fastest 5 % of the pixels."""

FAST_PIXELS = 6.0
FAST_SIDE = 256.0
"""Six pixels from a sample to the next, where the shorter side has 256, are fast."""

FAST_PAIRS = 4 / 16
"""A video is dynamic if so many of its samples (rounded) are fast."""

LEAST_SAMPLES = 3
"""With two, a quarter of the samples rounds to none, and VBench calls any video dynamic."""

LEAST_SIDE = 8
"""Pixels of the smallest picture whose flow is taken."""

FlowFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


class FlowCurves(NamedTuple):
    """Speeds ``[B, P]`` from each sampled frame to the next in pixels, float64, and which speed is fast."""

    speed: Tensor
    fast: float


class FlowScores(NamedTuple):
    """One value per video, ``[B]`` float64; NaN where fewer than three frames are sampled.

    ``flow_top``: mean speed of the fastest 5 % of the pixels, in pixels from a sample to the next (an eighth
    of a second). ``dynamic_degree``: VBench's, 1 if about a quarter of the samples are fast, else 0.
    """

    flow_top: Tensor
    dynamic_degree: Tensor


def optical_flow(kind: Flow) -> FlowFunction:
    """Return a function of two 8-bit grey pictures ``[H, W]`` to the flow between them ``[H, W, 2]``, in pixels.

    Raises:
        ValueError: If there is no such flow, or OpenCV is not installed.
    """
    if kind not in ("dis", "farneback"):
        raise ValueError(f"`flow` must be dis or farneback, got {kind!r}")
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            "optical flow needs OpenCV, which is not installed; run `pip install 'lightning-adastate[metrics]'`"
        ) from error
    if kind == "farneback":
        return lambda one, other: cv2.calcOpticalFlowFarneback(
            one, other, None, 0.5, 3, 15, 3, 5, 1.2, 0
        )
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return lambda one, other: search.calc(one, other, None)


def top_speed(flow_HW2: np.ndarray) -> float:
    """Return the mean length of the longest 5 % of a flow's vectors, in pixels."""
    length = np.sqrt(np.square(flow_HW2.astype(np.float64)).sum(-1)).ravel()
    count = max(1, int(TOP_SHARE * length.size))
    return float(np.partition(length, -count)[-count:].mean())


class FlowRecorder:
    """Measure videos piece by piece. Of the pixels the last sampled frame is kept.

    Args:
        flow: Which optical flow.
        fps: Frames per second of the videos; eight of them are sampled, all if there are fewer.

    Raises:
        ValueError: If there is no such flow, OpenCV is not installed, or ``fps`` is not positive.
    """

    def __init__(self, flow: Flow = "dis", *, fps: float = DEFAULT_FPS) -> None:
        if not fps > 0:
            raise ValueError(f"`fps` must be positive, got {fps}")
        self.fps = fps
        self.interval = max(1, round(fps / SAMPLES_PER_SECOND))
        self._flow = optical_flow(flow)
        self._last: np.ndarray | None = None
        self._side = 0
        self._num_frames = 0
        self._speeds: list[list[float]] = []

    def append(self, video_BFCHW: Tensor) -> None:
        """Add the next frames ``[B, F, 3, H, W]``: floats in [0, 1] or uint8.

        Raises:
            ValueError: If they are smaller than eight pixels.
        """
        self._side = min(video_BFCHW.shape[3:])
        if self._side < LEAST_SIDE:
            raise ValueError(
                f"optical flow needs pictures of {LEAST_SIDE} x {LEAST_SIDE} pixels or more, got "
                f"{video_BFCHW.shape[3]} x {video_BFCHW.shape[4]}"
            )
        start = -self._num_frames % self.interval
        for index in range(start, video_BFCHW.shape[1], self.interval):
            levels = (luma(as_levels(video_BFCHW[:, index : index + 1]))[:, 0] * 255.0).round()
            grey = levels.byte().cpu().numpy()
            if self._last is not None:
                pairs = zip(self._last, grey, strict=True)
                self._speeds.append([top_speed(self._flow(*pair)) for pair in pairs])
            self._last = grey
        self._num_frames += video_BFCHW.shape[1]

    def curves(self) -> FlowCurves:
        """Return what was measured so far.

        Raises:
            ValueError: If nothing was.
        """
        if self._last is None:
            raise ValueError("expected videos, got no frame")
        slow_rate = max(1.0, SAMPLES_PER_SECOND / self.fps)
        fast = slow_rate * FAST_PIXELS * self._side / FAST_SIDE
        speeds = torch.tensor(self._speeds, dtype=torch.float64).reshape(-1, len(self._last))
        return FlowCurves(speeds.T, fast)


class DynamicDegree(VideoMetric[FlowCurves]):
    """Average ``FlowScores``: VBench's dynamic degree, by its rule, with another flow.

    VBench takes RAFT; sampling, fastest 5 %, threshold and count are its own (its code of 2025, where videos of
    fewer than 8 frames per second have a higher threshold). What it rewards wrongly: any camera motion, noise,
    flicker and cuts. It is yes or no for a video and blind to loops. Needs ``opencv-python-headless``.

    Args:
        flow: ``dis`` or ``farneback``.

    Raises:
        ValueError: If there is no such flow, or OpenCV is not installed.
    """

    names = FlowScores._fields

    def __init__(self, *, flow: Flow = "dis") -> None:
        super().__init__()
        optical_flow(flow)  # said here, not after an hour of scoring
        self.flow: Flow = flow

    def recorder(self, fps: float = DEFAULT_FPS) -> FlowRecorder:
        """Return a ``FlowRecorder`` for videos of that rate."""
        return FlowRecorder(self.flow, fps=fps)

    def scores(self, curves: FlowCurves) -> FlowScores:
        """Return ``FlowScores``."""
        samples = curves.speed.shape[1] + 1
        if samples < LEAST_SAMPLES:
            nothing = curves.speed.new_full((len(curves.speed),), math.nan)
            return FlowScores(nothing, nothing)
        num_fast = (curves.speed > curves.fast).sum(1)
        dynamic = (num_fast >= round(FAST_PAIRS * samples)).double()
        return FlowScores(curves.speed.mean(1), dynamic)
