"""All video metrics together: motion and consistency are worth little apart."""

# Shapes: B videos.

from __future__ import annotations

from torch import Tensor

from lightning_adastate.metrics.video_base import CurveMetric
from lightning_adastate.metrics.video_consistency import (
    ConsistencyScores,
    VideoConsistency,
    consistency_scores,
)
from lightning_adastate.metrics.video_drift import DriftScores, VideoDrift, drift_scores
from lightning_adastate.metrics.video_dynamics import DynamicsScores, dynamics_scores
from lightning_adastate.metrics.video_loops import LoopScores, loop_scores
from lightning_adastate.metrics.video_recorder import VideoCurves


class VideoMetrics(CurveMetric):
    """Average the scores of ``VideoDynamics``, ``VideoConsistency``, ``VideoLoops`` and ``VideoDrift``, read in one pass.

    A frozen video has the best consistency and drift there is, so no part of this is reported alone.

    Args:
        chunk_frames: Pixel frames per chunk; ``None`` leaves ``boundary_jump`` out.
        first_chunk_frames: Those of the first chunk, if it has fewer; ``None`` is as many.
        window_frames: Pixel frames the model sees back; only older ones count for ``novelty``.
        num_parts: Parts of the drift error.

    Raises:
        ValueError: If a number is too small.
    """

    names = (
        *DynamicsScores._fields,
        *ConsistencyScores._fields,
        *LoopScores._fields,
        *DriftScores._fields,
    )

    def __init__(
        self,
        *,
        chunk_frames: int | None = None,
        first_chunk_frames: int | None = None,
        window_frames: int = 24,
        num_parts: int = 5,
    ) -> None:
        super().__init__()
        self.chunks = VideoConsistency(
            chunk_frames=chunk_frames,
            first_chunk_frames=first_chunk_frames,
            window_frames=window_frames,
        ).chunks
        self.window_frames = window_frames
        self.num_parts = VideoDrift(num_parts=num_parts).num_parts

    def scores(self, curves: VideoCurves) -> tuple[Tensor, ...]:
        """Return all scores, in the order of ``names``."""
        return (
            *dynamics_scores(curves),
            *consistency_scores(curves, chunks=self.chunks, window_frames=self.window_frames),
            *loop_scores(curves),
            *drift_scores(curves, num_parts=self.num_parts),
        )
