"""The names of this family: what type checkers see, and what is imported when first used."""

from .pan_world import PanWorldData
from .prompt_file import PromptFileData
from .prompts import read_prompts
from .resumable import ResumableData
from .sampler import ClipSampler
from .trajectories import TrajectoryData
from .video_folder import VideoFolderData

__all__ = [
    "ClipSampler",
    "PanWorldData",
    "PromptFileData",
    "ResumableData",
    "TrajectoryData",
    "VideoFolderData",
    "read_prompts",
]
