"""A video that is continued: what of the old file is kept, and how it comes into the new one."""

from __future__ import annotations

from pathlib import Path

import av
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream


def continued_path(path: Path) -> Path:
    """Return where a video is written until it holds what is kept of the old one: beside it, hidden."""
    return path.with_name(f".{path.name}.continued")


def check_held(path: Path, num_frames: int) -> None:
    """Refuse a file that does not hold what is to be kept. Nothing is decoded.

    Raises:
        ValueError: If it is missing, broken, or holds fewer frames.
    """
    held = 0
    try:
        with av.open(str(path)) as old:
            if old.streams.video:
                held = sum(packet.size > 0 for packet in old.demux(old.streams.video[0]))
    except (FFmpegError, OSError) as error:
        raise ValueError(
            f"video file '{path}' cannot be continued: {error.strerror}; `generation.overwrite` "
            "starts anew"
        ) from error
    if held < num_frames:
        raise ValueError(
            f"video file '{path}' holds {held} of the {num_frames} frames that were written; "
            "`generation.overwrite` starts anew"
        )


def copy_frames(
    path: Path, num_frames: int, container: OutputContainer, stream: VideoStream
) -> None:
    """Copy a file's first frames, as they were encoded, in front of what an encoder writes."""
    with av.open(str(path)) as old:
        source = old.streams.video[0]
        # The encoder's own packets are of this form, and a file holds one form only.
        plain = BitStreamFilterContext("h264_mp4toannexb", source)
        left = num_frames
        for packet in old.demux(source):
            for copied in plain.filter(packet):
                copied.stream = stream
                container.mux(copied)
            left -= 1
            if not left:
                return
