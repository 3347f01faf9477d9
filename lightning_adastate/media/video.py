"""Video files in and out (PyAV): written chunk by chunk, readable while they grow."""

# Shapes: F frames, C colour, H W height / width in pixels. Pixels are floats in [0, 1] or uint8.

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import Self

SMALL_PICTURE = 256 * 256
"""Below this many pixels, starting decoder threads costs more than it saves."""

Quality = Literal["preview", "lossless"]


class VideoInfo(NamedTuple):
    """Frames, height, width and frames per second of a video file."""

    num_frames: int
    height: int
    width: int
    fps: Fraction


def to_uint8(video_FCHW: Tensor) -> Tensor:
    """Return pixels as uint8 on the CPU; floats in [0, 1] are clamped and rounded."""
    video_FCHW = video_FCHW.detach().cpu()
    if video_FCHW.dtype == torch.uint8:
        return video_FCHW
    return (video_FCHW.float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)


def upscale(video_FCHW: Tensor, scale: int) -> Tensor:
    """Repeat every pixel ``scale`` times in both directions, so that a tiny world can be watched."""
    if scale < 1:
        raise ValueError(f"`scale` must be 1 or more, got {scale}")
    return video_FCHW.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def watchable_scale(height: int, smallest: int = 192) -> int:
    """Return by how much to upscale frames of ``height`` so that a person can watch them."""
    return max(1, -(-smallest // height))


class VideoWriter:
    """Append frames to an mp4 file that can be watched while it grows.

    Every chunk is a fragment that is flushed to disk, so all but the last frames can be read at once;
    closing makes it an ordinary mp4. Pixels are not kept. The file appears with the first frame.

    Args:
        path: Where to. An existing file is replaced.
        fps: Frames per second.
        scale: Upscale by this first.
        quality: ``preview``: H.264 any player shows (odd sizes are padded by a pixel). ``lossless``:
            bit-exact RGB, for data.
        chunk_frames: Frames between key frames; the chunk that is usually appended.

    Raises:
        ValueError: If a number is not positive, or nothing can be written there.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: int | Fraction = 16,
        scale: int = 1,
        quality: Quality = "preview",
        chunk_frames: int = 3,
    ) -> None:
        for name, value in (("fps", fps), ("scale", scale), ("chunk_frames", chunk_frames)):
            if not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}")
        if quality not in ("preview", "lossless"):
            raise ValueError(f"`quality` must be preview or lossless, got {quality!r}")
        self.path = Path(path)
        self.fps = fps
        self.scale = scale
        self.quality: Quality = quality
        self.chunk_frames = chunk_frames
        self.num_frames = 0
        self._size: tuple[int, int] | None = None
        self._output: tuple[OutputContainer, VideoStream] | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"video file '{path}' cannot be written: {error.strerror}") from error
        if self.path.is_dir() or not os.access(self.path.parent, os.W_OK):
            raise ValueError(f"video file '{path}' cannot be written there")

    def append(self, video_FCHW: Tensor) -> None:
        """Write frames ``[F, 3, H, W]``, uint8 or floats in [0, 1].

        Raises:
            ValueError: If they are no RGB frames, or of another size than those before.
        """
        if video_FCHW.ndim != 4 or video_FCHW.shape[1] != 3:
            raise ValueError(f"expected frames [F, 3, H, W], got shape {tuple(video_FCHW.shape)}")
        height, width = video_FCHW.shape[2:]
        if self._size is None:
            self._size = (height, width)
            self._output = self._open_output()
        if self._size != (height, width):
            raise ValueError(f"expected frames of {self._size}, got {(height, width)}")
        assert self._output is not None
        container, stream = self._output
        frames = upscale(to_uint8(video_FCHW), self.scale)
        spare = (stream.width - frames.shape[3], stream.height - frames.shape[2])
        if any(spare):
            frames = pad(frames.float(), (0, spare[0], 0, spare[1]), mode="replicate").byte()
        for picture in frames.permute(0, 2, 3, 1).contiguous().numpy():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = self.num_frames
            container.mux(stream.encode(frame))
            self.num_frames += 1

    def close(self) -> None:
        """Finish the file. Closing twice is harmless."""
        if self._output is not None:
            container, stream = self._output
            self._output = None
            container.mux(stream.encode(None))
            container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_output(self) -> tuple[OutputContainer, VideoStream]:
        assert self._size is not None
        movie = {"movflags": "hybrid_fragmented", "flush_packets": "1"}
        container = av.open(str(self.path), "w", format="mp4", options=movie)
        lossless = self.quality == "lossless"
        options = {"preset": "veryfast", "tune": "zerolatency"}
        options |= {"qp": "0"} if lossless else {"crf": "16"}
        stream = container.add_stream(
            "libx264rgb" if lossless else "libx264", rate=Fraction(self.fps), options=options
        )
        height, width = (side * self.scale for side in self._size)
        even = 1 if lossless else 2
        stream.height, stream.width = -(-height // even) * even, -(-width // even) * even
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        stream.codec_context.gop_size = self.chunk_frames
        return container, stream


def write_video(
    path: str | Path,
    video_FCHW: Tensor,
    *,
    fps: int | Fraction = 16,
    scale: int = 1,
    quality: Quality = "preview",
) -> None:
    """Write one whole clip; see ``VideoWriter``."""
    with VideoWriter(path, fps=fps, scale=scale, quality=quality, chunk_frames=24) as writer:
        writer.append(video_FCHW)


# -- reading --------------------------------------------------------------------------------------


def probe_video(path: str | Path) -> VideoInfo:
    """Return what a file holds. Counts by decoding where the header does not say.

    Raises:
        ValueError: If it is missing, broken or holds no video.
    """
    with _open(path) as container:
        stream = _video_stream(container, path)
        rate = stream.average_rate or stream.guessed_rate
        if not rate or not stream.height or not stream.width:
            raise ValueError(f"video file '{path}' is broken: no size or frame rate")
        size = (stream.height, stream.width, Fraction(rate))
        count = stream.frames
        if not count:
            count = sum(1 for _ in _frames(container, stream, path))
    if not count:
        raise ValueError(f"video file '{path}' has no frames")
    return VideoInfo(count, *size)


def read_video(path: str | Path, start: int = 0, num_frames: int | None = None) -> Tensor:
    """Return frames ``start : start + num_frames`` as uint8 ``[F, 3, H, W]``; ``None`` is to the end.

    Raises:
        ValueError: If the file is missing, broken, holds no video, or is too short.
    """
    if start < 0 or (num_frames is not None and num_frames < 1):
        raise ValueError(f"expected start >= 0 and num_frames >= 1, got {start} and {num_frames}")
    pictures: list[np.ndarray] = []
    converter = VideoReformatter()
    with _open(path) as container:
        stream = _video_stream(container, path)
        rate = stream.average_rate or stream.guessed_rate
        if rate is None or stream.time_base is None:
            raise ValueError(f"video file '{path}' is broken: no frame rate")
        if start:
            _seek(container, stream, start, rate, path)
        first = stream.start_time or 0
        for count, frame in enumerate(_frames(container, stream, path)):
            time = count / rate if frame.pts is None else (frame.pts - first) * stream.time_base
            if round(time * rate) < start:
                continue
            # One converter for all frames: `to_ndarray(format=...)` would set one up for each.
            pictures.append(converter.reformat(frame, format="rgb24").to_ndarray())
            if len(pictures) == num_frames:
                break
    if not pictures or (num_frames is not None and len(pictures) < num_frames):
        raise ValueError(
            f"video file '{path}' ends too early: wanted {num_frames or 'any'} frames from frame "
            f"{start}, got {len(pictures)}"
        )
    return _as_tensor(pictures)


def read_pieces(path: str | Path, piece_frames: int = 32) -> Iterator[Tensor]:
    """Yield all frames in order as uint8 ``[F, 3, H, W]``, decoded once, a piece in memory at a time.

    Raises:
        ValueError: If the file is missing, broken or holds no video.
    """
    converter = VideoReformatter()
    with _open(path) as container:
        frames = _frames(container, _video_stream(container, path), path)
        pictures = (converter.reformat(frame, format="rgb24").to_ndarray() for frame in frames)
        while piece := list(islice(pictures, piece_frames)):
            yield _as_tensor(piece)


def _as_tensor(pictures: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _open(path: str | Path) -> InputContainer:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"video file '{path}' does not exist")
    if not path.stat().st_size:
        raise ValueError(f"video file '{path}' is empty")
    try:
        return av.open(str(path))
    except (FFmpegError, OSError) as error:
        raise ValueError(f"video file '{path}' cannot be read: {error.strerror}") from error


def _video_stream(container: InputContainer, path: str | Path) -> VideoStream:
    if not container.streams.video:
        raise ValueError(f"file '{path}' holds no video stream")
    stream = container.streams.video[0]
    # A file cut inside its header has a stream without a decoder; touching it kills the process.
    if stream.codec_context is None:
        raise ValueError(f"video file '{path}' is broken: its codec is unknown")
    if stream.height * stream.width < SMALL_PICTURE:
        stream.codec_context.thread_count = 1
    return stream


def _seek(
    container: InputContainer, stream: VideoStream, start: int, rate: Fraction, path: str | Path
) -> None:
    assert stream.time_base is not None
    try:
        offset = int(start / rate / stream.time_base) + (stream.start_time or 0)
        container.seek(offset, stream=stream, backward=True)
    except FFmpegError as error:
        raise ValueError(f"video file '{path}' cannot be read: {error.strerror}") from error


def _frames(
    container: InputContainer, stream: VideoStream, path: str | Path
) -> Iterator[av.VideoFrame]:
    try:
        yield from container.decode(stream)
    except (FFmpegError, OSError) as error:
        raise ValueError(f"video file '{path}' is broken: {error.strerror}") from error
