"""Pixels and latents in files: videos in and out, pictures, latents."""

from lightning_adastate.media.latents import LatentsWriter
from lightning_adastate.media.video import VideoWriter, probe_video, read_video, write_video

__all__ = ["LatentsWriter", "VideoWriter", "probe_video", "read_video", "write_video"]
