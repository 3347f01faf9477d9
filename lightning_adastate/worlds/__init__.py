"""Worlds with an exact truth: renderers and decoders."""

from lightning_adastate.worlds.linear import LinearResult, LinearWorld
from lightning_adastate.worlds.pan import PanWorld
from lightning_adastate.worlds.pan_decoder import PanReading, decode_pan, wrap
from lightning_adastate.worlds.pan_truth import PanEpisodes, PanTruth

__all__ = [
    "LinearResult",
    "LinearWorld",
    "PanEpisodes",
    "PanReading",
    "PanTruth",
    "PanWorld",
    "decode_pan",
    "wrap",
]
