"""Metrics of streams."""

from lightning_adastate.metrics.pan import PAN_IDEAL, PanMetrics, PanScores, pan_scores
from lightning_adastate.metrics.video_consistency import ConsistencyScores, VideoConsistency
from lightning_adastate.metrics.video_drift import DriftScores, VideoDrift
from lightning_adastate.metrics.video_dynamics import DynamicsScores, VideoDynamics
from lightning_adastate.metrics.video_flow import DynamicDegree, FlowRecorder, FlowScores
from lightning_adastate.metrics.video_loops import LoopScores, VideoLoops
from lightning_adastate.metrics.video_recorder import CurveRecorder, VideoCurves, video_curves
from lightning_adastate.metrics.video_ssim import SSIMRecorder, SSIMScores, VideoSSIM
from lightning_adastate.metrics.video_suite import VideoMetrics

__all__ = [
    "PAN_IDEAL",
    "ConsistencyScores",
    "CurveRecorder",
    "DriftScores",
    "DynamicDegree",
    "DynamicsScores",
    "FlowRecorder",
    "FlowScores",
    "LoopScores",
    "PanMetrics",
    "PanScores",
    "SSIMRecorder",
    "SSIMScores",
    "VideoConsistency",
    "VideoCurves",
    "VideoDrift",
    "VideoDynamics",
    "VideoLoops",
    "VideoMetrics",
    "VideoSSIM",
    "pan_scores",
    "video_curves",
]
