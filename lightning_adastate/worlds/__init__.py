"""Worlds with an exact truth: renderers and decoders."""

from lightning_adastate.worlds.linear import LinearResult, LinearWorld
from lightning_adastate.worlds.pan import PanEpisodes, PanTruth, PanWorld
from lightning_adastate.worlds.pan_decoder import PanReading, decode_pan, wrap

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
