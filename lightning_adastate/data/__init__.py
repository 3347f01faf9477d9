"""Data: prompts, videos with captions, and trajectories of a teacher."""

from lightning_adastate.data.pan_world import PanWorldData
from lightning_adastate.data.prompt_file import PromptFileData
from lightning_adastate.data.prompts import read_prompts
from lightning_adastate.data.resumable import ResumableData
from lightning_adastate.data.sampler import ClipSampler
from lightning_adastate.data.trajectories import TrajectoryData
from lightning_adastate.data.video_folder import VideoFolderData

__all__ = [
    "ClipSampler",
    "PanWorldData",
    "PromptFileData",
    "ResumableData",
    "TrajectoryData",
    "VideoFolderData",
    "read_prompts",
]
