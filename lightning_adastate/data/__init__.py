"""Data: prompts, and videos with captions."""

from lightning_adastate.data.pan_world import PanWorldData
from lightning_adastate.data.prompts import read_prompts
from lightning_adastate.data.sampler import ClipSampler
from lightning_adastate.data.video_folder import VideoFolderData

__all__ = ["ClipSampler", "PanWorldData", "VideoFolderData", "read_prompts"]
