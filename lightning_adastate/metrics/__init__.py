"""Metrics of streams."""

from lightning_adastate.metrics.pan import PAN_IDEAL, PanMetrics, PanScores, pan_scores
from lightning_adastate.metrics.video_consistency import ConsistencyScores, VideoConsistency
from lightning_adastate.metrics.video_drift import DriftScores, VideoDrift
from lightning_adastate.metrics.video_dynamics import DynamicsScores, VideoDynamics
from lightning_adastate.metrics.video_recorder import CurveRecorder, VideoCurves, video_curves
from lightning_adastate.metrics.video_suite import VideoMetrics

__all__ = [
    "PAN_IDEAL",
    "ConsistencyScores",
    "CurveRecorder",
    "DriftScores",
    "DynamicsScores",
    "PanMetrics",
    "PanScores",
    "VideoConsistency",
    "VideoCurves",
    "VideoDrift",
    "VideoDynamics",
    "VideoMetrics",
    "pan_scores",
    "video_curves",
]
