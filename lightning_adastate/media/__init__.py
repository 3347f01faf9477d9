"""Pixels and latents in files: videos in and out, pictures, latents."""

from lightning_adastate.media.latents import LatentsWriter
from lightning_adastate.media.reading import probe_video, read_video
from lightning_adastate.media.video import VideoWriter, write_video

__all__ = ["LatentsWriter", "VideoWriter", "probe_video", "read_video", "write_video"]
