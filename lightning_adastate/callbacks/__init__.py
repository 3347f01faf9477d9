"""Callbacks: they observe and write; loss weighting is the one that changes what is computed."""

from lightning_adastate.callbacks.exact_resume import ExactResume
from lightning_adastate.callbacks.graceful_stop import GracefulStop
from lightning_adastate.callbacks.loss_weighting import HorizonRamp, LossWeightingCallback
from lightning_adastate.callbacks.metrics_resume import MetricsResume
from lightning_adastate.callbacks.reward_weighting import RewardWeighting
from lightning_adastate.callbacks.stream_metrics import StreamMetrics
from lightning_adastate.callbacks.swap_probe import SwapProbeMetrics
from lightning_adastate.callbacks.video_predictions import VideoPredictionWriter

__all__ = [
    "ExactResume",
    "GracefulStop",
    "HorizonRamp",
    "LossWeightingCallback",
    "MetricsResume",
    "RewardWeighting",
    "StreamMetrics",
    "SwapProbeMetrics",
    "VideoPredictionWriter",
]
