"""Anchors: what stands in front of the window."""

from lightning_adastate.anchors.adaptive import AdaptiveAnchor
from lightning_adastate.anchors.base import Anchor
from lightning_adastate.anchors.composed import ComposedAnchor
from lightning_adastate.anchors.compressed import CompressedAnchor
from lightning_adastate.anchors.ema import EMAAnchor
from lightning_adastate.anchors.pooled import PooledEMAAnchor
from lightning_adastate.anchors.replacement import ReplacementAnchor
from lightning_adastate.anchors.selected import SelectedAnchor
from lightning_adastate.anchors.static import StaticAnchor
from lightning_adastate.anchors.triangular import TriangularAnchor

__all__ = [
    "AdaptiveAnchor",
    "Anchor",
    "ComposedAnchor",
    "CompressedAnchor",
    "EMAAnchor",
    "PooledEMAAnchor",
    "ReplacementAnchor",
    "SelectedAnchor",
    "StaticAnchor",
    "TriangularAnchor",
]
