"""The loop over chunks, and what is around it: from prompts to pixels, in plain PyTorch."""

from lightning_adastate.streaming.buffers import StreamBuffers
from lightning_adastate.streaming.commit import KVGradient
from lightning_adastate.streaming.pipeline import PixelStreaming, StreamPipeline, VideoChunk
from lightning_adastate.streaming.state_file import load_stream_state, save_stream_state
from lightning_adastate.streaming.streamer import Streamer

__all__ = [
    "KVGradient",
    "PixelStreaming",
    "StreamBuffers",
    "StreamPipeline",
    "Streamer",
    "VideoChunk",
    "load_stream_state",
    "save_stream_state",
]
