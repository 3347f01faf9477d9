"""Training stages: one LightningModule each."""

from lightning_adastate.training.base import StreamModule, VideoBatch, VideoChunk
from lightning_adastate.training.hooks import FrameWeightHook
from lightning_adastate.training.optimization import Optimization
from lightning_adastate.training.self_forcing import SelfForcing

__all__ = [
    "FrameWeightHook",
    "Optimization",
    "SelfForcing",
    "StreamModule",
    "VideoBatch",
    "VideoChunk",
]
