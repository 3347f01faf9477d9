"""Decoding, in a process of its own: a broken video may kill it, and a hostile one gets no more than its limits.

``media.sandbox`` runs this file by its path. It imports neither torch nor this package, so that it starts in a quarter
of a second. Requests come as JSON, one per line of the standard input; answers go to the standard output, each as the
length of a JSON object in four bytes, the object, and for ``shape`` that many bytes of pixels.
"""

# Shapes: F frames, H W height / width in pixels; pictures are uint8 [H, W, 3].

from __future__ import annotations

import itertools
import json
import os
import resource
import struct
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

SMALL_PICTURE = 256 * 256
"""Below this many pixels, starting decoder threads costs more than it saves."""

MAX_THREADS = 4
"""Of one decoder, whatever the number of cores: each takes address space."""

PIECE_BYTES = 1 << 26
"""Pixels of one answer: a piece ends there, however few frames it has."""

BEAT_FRAMES = 256
"""Frames counted between two signs of life."""

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,nut,ivf,h264,hevc,av1,obu,mxf,dv,gif,"
    "apng,image2,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,mjpeg,yuv4mpegpipe"
)
"""Formats that are opened. Play lists are not: they would open other files and addresses."""


class Wanted(NamedTuple):
    """Which frames of a file, and in what form; see ``media.reading``."""

    start: int
    num_frames: int | None
    piece_frames: int
    fps: Fraction | None
    size: tuple[int, int] | None


def probe(path: str, max_pixels: int, max_fps: float) -> Iterator[dict[str, Any]]:
    """Yield what a file holds. Its first frame is decoded; the others where the header does not count them.

    Raises:
        ValueError: If it holds no video that can be decoded, or more than is allowed.
    """
    with _open(path) as container:
        stream = _video_stream(container, path, max_pixels)
        rate = _rate(stream, path, max_fps)
        decoded = decode(container, stream, path, max_pixels)
        if (first := next(decoded, None)) is None:
            raise ValueError(f"video file '{path}' has no frames")
        _check_end(stream, path)
        height, width = _shown(first)
        count = stream.frames
        if not count:
            for count, _ in enumerate(decoded, 2):
                if count % BEAT_FRAMES == 0:
                    yield {}
            count = max(count, 1)
    yield {"info": [count, height, width, rate.numerator, rate.denominator]}


def pieces(
    path: str, wanted: Wanted, max_pixels: int, max_fps: float
) -> Iterator[list[np.ndarray]]:
    """Yield the frames asked for as pictures, a list at a time; none where only time passed.

    Raises:
        ValueError: If it holds no video that can be decoded, or more than is allowed.
    """
    converter = VideoReformatter()
    shape: tuple[int, ...] = ()
    piece: list[np.ndarray] = []
    with _open(path) as container:
        stream = _video_stream(container, path, max_pixels)
        rate = _rate(stream, path, max_fps)
        frames = decode(container, stream, path, max_pixels, wanted.start / (wanted.fps or rate))
        for frame in choose(frames, stream, wanted, rate):
            picture = _picture(converter, frame, wanted.size)
            if shape and picture.shape != shape:
                raise ValueError(
                    f"video file '{path}' changes its size from {shape[0]} x {shape[1]} to {picture.shape[0]} x "
                    f"{picture.shape[1]} on the way"
                )
            shape = picture.shape
            piece.append(picture)
            if len(piece) == wanted.piece_frames or len(piece) * picture.nbytes >= PIECE_BYTES:
                yield piece
                piece = []
    if piece:
        yield piece


def choose(
    frames: Iterator[VideoFrame], stream: VideoStream, wanted: Wanted, rate: Fraction
) -> Iterator[VideoFrame]:
    """Yield the frames asked for: by number, or with ``fps`` the nearest in time to each tick."""
    stop = None if wanted.num_frames is None else wanted.start + wanted.num_frames
    timed = _timed(frames, stream, rate)
    if wanted.fps is None:
        numbered = (frame for frame, time in timed if round(time * rate) >= wanted.start)
        yield from itertools.islice(numbered, wanted.num_frames)
        return
    number, before, last = wanted.start, None, Fraction(0)
    for frame, time in timed:
        while before is not None and number / wanted.fps <= (last + time) / 2:
            yield before
            number += 1
            if number == stop:
                return
        before, last = frame, time
    # The last frame is shown until the next would come.
    while before is not None and number != stop and number / wanted.fps < last + 1 / rate:
        yield before
        number += 1


def decode(
    container: InputContainer,
    stream: VideoStream,
    path: str,
    max_pixels: int,
    start: Fraction | int = 0,
) -> Iterator[VideoFrame]:
    """Yield the frames from the last key frame before ``start`` seconds.

    Raises:
        ValueError: If they are broken or larger than is allowed.
    """
    try:
        if start and stream.time_base is not None:
            offset = int(start / stream.time_base) + (stream.start_time or 0)
            container.seek(offset, stream=stream, backward=True)
        for frame in container.decode(stream):
            _check_pixels(frame.height, frame.width, path, max_pixels)
            yield frame
    except (FFmpegError, OSError) as error:
        raise ValueError(f"video file '{path}' is broken: {error.strerror}") from error


def _timed(
    frames: Iterator[VideoFrame], stream: VideoStream, rate: Fraction
) -> Iterator[tuple[VideoFrame, Fraction]]:
    """Yield frames with their time in seconds from the file's begin."""
    first, tick = stream.start_time or 0, stream.time_base or Fraction(1)
    for count, frame in enumerate(frames):
        yield frame, count / rate if frame.pts is None else (frame.pts - first) * tick


def _picture(
    converter: VideoReformatter, frame: VideoFrame, size: tuple[int, int] | None
) -> np.ndarray:
    """Return a frame as it is shown: turned, and brought to a size by its shorter side and a centre crop."""
    turns, shown = _turns(frame), _shown(frame)
    if size is None or size == shown:
        picture = converter.reformat(frame, format="rgb24").to_ndarray()
        return np.rot90(picture, turns)
    scale = max(Fraction(size[0], shown[0]), Fraction(size[1], shown[1]))
    height, width = (
        max(want, round(side * scale)) for want, side in zip(size, shown, strict=True)
    )
    picture = converter.reformat(
        frame,
        width=height if turns % 2 else width,
        height=width if turns % 2 else height,
        format="rgb24",
        interpolation=Interpolation.BICUBIC,
    ).to_ndarray()
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return np.rot90(picture, turns)[top : top + size[0], left : left + size[1]]


def _turns(frame: VideoFrame) -> int:
    """Return by how many quarters a frame is turned counter-clockwise to be shown."""
    return round(frame.rotation / 90) % 4


def _shown(frame: VideoFrame) -> tuple[int, int]:
    """Return height and width as a frame is shown."""
    return (frame.width, frame.height) if _turns(frame) % 2 else (frame.height, frame.width)


def _open(path: str) -> InputContainer:
    try:
        return av.open(path, options={"protocol_whitelist": "file", "format_whitelist": FORMATS})
    except (FFmpegError, OSError) as error:
        raise ValueError(f"video file '{path}' cannot be read: {error.strerror}") from error


def _video_stream(container: InputContainer, path: str, max_pixels: int) -> VideoStream:
    if not container.streams.video:
        raise ValueError(f"file '{path}' holds no video stream")
    stream = container.streams.video[0]
    # A file cut inside its header has a stream without a decoder; touching it kills the process.
    if stream.codec_context is None:
        raise ValueError(f"video file '{path}' is broken: its codec is unknown")
    _check_pixels(stream.height, stream.width, path, max_pixels)
    small = stream.height * stream.width < SMALL_PICTURE
    stream.codec_context.thread_count = 1 if small else MAX_THREADS
    return stream


def _check_pixels(height: int, width: int, path: str, max_pixels: int) -> None:
    if not 0 < height * width <= max_pixels:
        raise ValueError(
            f"video file '{path}' has pictures of {height} x {width}; expected 1 to {max_pixels} pixels"
        )


def _rate(stream: VideoStream, path: str, max_fps: float) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate
    if not rate or not 0 < rate <= max_fps:
        raise ValueError(
            f"video file '{path}' is broken: {float(rate or 0):.6g} frames per second, the most is {max_fps:g}"
        )
    return Fraction(rate)


def _check_end(stream: VideoStream, path: str) -> None:
    """Refuse a file that is shorter than its own index says."""
    entries = stream.index_entries
    end = max(entries[-1].pos + entries[-1].size, 0) if len(entries) else 0
    if end > os.path.getsize(path):
        raise ValueError(f"video file '{path}' is cut short: its last frame is missing")


# -- the process ----------------------------------------------------------------------------------


def allow(cpu_seconds: int) -> None:
    """Allow so much more time on the processor."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def answer(out: BinaryIO, what: dict[str, Any], pictures: list[np.ndarray]) -> None:
    """Send an answer."""
    head = json.dumps(what).encode()
    out.write(struct.pack("<I", len(head)) + head)
    out.writelines(np.ascontiguousarray(picture).data for picture in pictures)
    out.flush()


def serve(requests: BinaryIO, out: BinaryIO, memory_bytes: int, cpu_seconds: int) -> None:
    """Answer requests until there are no more."""
    # Elsewhere the limit is not kept, or kept before anything is loaded.
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in requests:
        asked = json.loads(line)
        os.chdir(asked["folder"])  # where the one who asks is now
        allow(cpu_seconds)
        path, caps = asked["path"], (asked["max_pixels"], asked["max_fps"])
        try:
            if asked["job"] == "probe":
                for found in probe(path, *caps):
                    answer(out, found, [])
                    allow(cpu_seconds)
            else:
                fps = None if asked["fps"] is None else Fraction(*asked["fps"])
                size = None if asked["size"] is None else tuple(asked["size"])
                start, count, most = asked["frames"]
                which = Wanted(start, count, most, fps, size)
                for piece in pieces(path, which, *caps):
                    answer(out, {"shape": [len(piece), *piece[0].shape]}, piece)
                    allow(cpu_seconds)
        except (MemoryError, ValueError) as error:
            text = str(error)
            if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
                text = f"video file '{path}' takes more than {memory_bytes >> 20} MiB to decode"
            answer(out, {"error": text}, [])
        else:
            answer(out, {"end": True}, [])


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[1]), int(sys.argv[2]))
