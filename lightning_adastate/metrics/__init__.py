"""Metrics of streams."""

from lightning_adastate.metrics.bootstrap import Interval, paired_bootstrap
from lightning_adastate.metrics.pan import PAN_IDEAL, PanMetrics, PanScores, pan_scores

__all__ = ["PAN_IDEAL", "Interval", "PanMetrics", "PanScores", "paired_bootstrap", "pan_scores"]
