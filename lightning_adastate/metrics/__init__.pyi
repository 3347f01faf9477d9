"""The names of this family: what type checkers see, and what is imported when first used."""

from .pan import PAN_IDEAL, PanMetrics, PanScores, pan_scores
from .video_consistency import ConsistencyScores, VideoConsistency
from .video_drift import DriftScores, VideoDrift
from .video_dynamics import DynamicsScores, VideoDynamics
from .video_flow import DynamicDegree, FlowRecorder, FlowScores
from .video_loops import LoopScores, VideoLoops
from .video_recorder import CurveRecorder, VideoCurves, video_curves
from .video_ssim import SSIMRecorder, SSIMScores, VideoSSIM
from .video_suite import VideoMetrics

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
