"""Weights: read from every format people have, loaded into a backbone, converted."""

from lightning_adastate.weights.conversion import convert
from lightning_adastate.weights.files import WeightFiles
from lightning_adastate.weights.loading import (
    WeightReport,
    compare_weights,
    load_anchor,
    load_into,
    load_weights,
)

__all__ = [
    "WeightFiles",
    "WeightReport",
    "compare_weights",
    "convert",
    "load_anchor",
    "load_into",
    "load_weights",
]
