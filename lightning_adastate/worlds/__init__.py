"""Worlds with an exact truth: renderers and decoders."""

from lightning_adastate.worlds.kalman import KalmanResult, KalmanWorld
from lightning_adastate.worlds.pan import PanEpisodes, PanTruth, PanWorld
from lightning_adastate.worlds.pan_decoder import PanReading, decode_pan, wrap

__all__ = [
    "KalmanResult",
    "KalmanWorld",
    "PanEpisodes",
    "PanReading",
    "PanTruth",
    "PanWorld",
    "decode_pan",
    "wrap",
]
