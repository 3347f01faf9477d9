"""Video files out (PyAV): written chunk by chunk, readable while they grow, taken up again where they stopped."""

# Shapes: F frames, C colour, H W height / width in pixels. Pixels are floats in [0, 1] or uint8.

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal

import av
import torch
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import Self

from lightning_adastate.media.continuing import check_held, continued_path, copy_frames
from lightning_adastate.media.output_file import OutputFile

MAX_FPS = 1000
"""Frames per second that a video may have."""

MAX_SIDE = 16384
"""Pixels of a side of the largest picture that x264 takes."""

Quality = Literal["preview", "lossless"]


def to_uint8(video_FCHW: Tensor) -> Tensor:
    """Return pixels as uint8 on the CPU; floats in [0, 1] are clamped and rounded where they are."""
    video_FCHW = video_FCHW.detach()
    if video_FCHW.dtype != torch.uint8:
        video_FCHW = (video_FCHW.float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    if not video_FCHW.is_cuda:
        return video_FCHW.cpu()
    pinned = torch.empty_like(video_FCHW, device="cpu", pin_memory=True)
    pinned.copy_(video_FCHW, non_blocking=True)
    torch.cuda.current_stream(video_FCHW.device).synchronize()
    return pinned


def upscale(video_FCHW: Tensor, scale: int) -> Tensor:
    """Repeat every pixel ``scale`` times in both directions, so that a tiny world can be watched."""
    if scale < 1:
        raise ValueError(f"`scale` must be 1 or more, got {scale}")
    return video_FCHW.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def watchable_scale(height: int, smallest: int = 192) -> int:
    """Return by how much to upscale frames of ``height`` so that a person can watch them."""
    return max(1, -(-smallest // height))


def check_fps(fps: float | Fraction) -> None:
    """Refuse a frame rate that no player shows and no file can say.

    Raises:
        ValueError: If it is not in (0, 1000].
    """
    if not 0 < fps <= MAX_FPS:
        raise ValueError(f"`fps` must be in (0, {MAX_FPS}] frames per second, got {fps}")


def check_picture(height: int, width: int, scale: int) -> None:
    """Refuse pictures that H.264 cannot hold, before they are made.

    Raises:
        ValueError: If a side is longer than the format allows.
    """
    if max(height, width) * scale > MAX_SIDE:
        raise ValueError(
            f"pictures of {height} x {width} pixels enlarged {scale} times are longer than the {MAX_SIDE} pixels "
            f"of a video's side; `upscale` must be {max(1, MAX_SIDE // max(height, width))} or less"
        )


def picture_scale(size: tuple[int, int], quality: Quality, upscale: int | None = None) -> int:
    """Return by how much pictures are enlarged: as is asked for, or a preview so that a person can watch it.

    Raises:
        ValueError: If a side is then longer than the format allows.
    """
    if upscale is None:
        upscale = 1 if quality == "lossless" else watchable_scale(size[0])
    check_picture(*size, upscale)
    return upscale


class VideoWriter:
    """Append frames to an mp4 file that can be watched while it grows.

    Every chunk is a fragment that is flushed to disk, so all but the last frames can be read at once;
    closing makes it an ordinary mp4. Pixels are not kept. The file appears with the first frame.

    A file that was begun before is taken up again by copying its first frames, as they are, into a new one
    that takes its place once it holds them: whenever the process dies, one of both is there.

    Args:
        path: Where to. An existing file is replaced.
        fps: Frames per second.
        scale: Upscale by this first.
        quality: ``preview``: H.264 any player shows (odd sizes are padded by a pixel). ``lossless``:
            bit-exact RGB, for data.
        chunk_frames: Frames between key frames; the chunk that is usually appended.
        keep_frames: Go on behind so many frames of the file that is there; 0 begins anew.
        comment: Text to stand in the file's header; ``read_comment`` returns it.

    Raises:
        ValueError: If a number is not positive or ``fps`` too large, nothing can be written there, or the file to go
            on with holds fewer frames.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: int | Fraction = 16,
        scale: int = 1,
        quality: Quality = "preview",
        chunk_frames: int = 3,
        keep_frames: int = 0,
        comment: str = "",
    ) -> None:
        for name, value in (("fps", fps), ("scale", scale), ("chunk_frames", chunk_frames)):
            if not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}")
        check_fps(fps)
        if quality not in ("preview", "lossless"):
            raise ValueError(f"`quality` must be preview or lossless, got {quality!r}")
        self.path = Path(path)
        self.fps = fps
        self.scale = scale
        self.quality: Quality = quality
        self.chunk_frames = chunk_frames
        self.keep_frames = keep_frames
        self.comment = comment
        self.num_frames = keep_frames
        self.num_flushed = keep_frames
        self._whole_bytes = 0
        self._size: tuple[int, int] | None = None
        self._output: tuple[OutputContainer, VideoStream, OutputFile] | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"video file '{path}' cannot be written: {error.strerror}") from error
        if self.path.is_dir() or not os.access(self.path.parent, os.W_OK):
            raise ValueError(f"video file '{path}' cannot be written there")
        continued_path(self.path).unlink(missing_ok=True)  # of a process that died while it copied
        if keep_frames:
            check_held(self.path, keep_frames)

    def append(self, video_FCHW: Tensor) -> None:
        """Write frames ``[F, 3, H, W]``, uint8 or floats in [0, 1].

        Raises:
            ValueError: If they are no RGB frames, of another size than those before, or too large for a video.
            OSError: If there is no room, naming the file. It then holds the flushed frames, plays, and takes no more.
        """
        if video_FCHW.ndim != 4 or video_FCHW.shape[1] != 3:
            raise ValueError(f"expected frames [F, 3, H, W], got shape {tuple(video_FCHW.shape)}")
        height, width = video_FCHW.shape[2:]
        if self._size is None:
            check_picture(height, width, self.scale)
            self._size = (height, width)
            self._output = self._open_output()
        if self._size != (height, width):
            raise ValueError(f"expected frames of {self._size}, got {(height, width)}")
        assert self._output is not None
        container, stream, file = self._output
        frames = upscale(to_uint8(video_FCHW), self.scale)
        spare = (stream.width - frames.shape[3], stream.height - frames.shape[2])
        if any(spare):
            frames = pad(frames.float(), (0, spare[0], 0, spare[1]), mode="replicate").byte()
        try:
            for picture in frames.permute(0, 2, 3, 1).contiguous().numpy():
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = self.num_frames
                for packet in stream.encode(frame):
                    container.mux(packet)
                    if packet.is_keyframe:  # it closes the fragment before it
                        self._flushed(self.num_frames, file)
                self.num_frames += 1
        except OSError:
            self._cut()
            raise

    def sync(self) -> None:
        """Wait until the flushed frames are on the disk."""
        if self._output is not None:
            self._output[2].sync()

    def close(self) -> None:
        """Finish the file. Closing twice is harmless.

        Raises:
            OSError: If there is no room; the file then holds the flushed frames, and plays.
        """
        if self._output is None:
            return
        container, stream, file = self._output
        try:
            container.mux(stream.encode(None))
            container.close()
        except OSError:
            self._cut()
            raise
        self._output = None
        file.close()
        self._take_place()
        self.num_flushed = self.num_frames

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _flushed(self, num_frames: int, file: OutputFile) -> None:
        """Note that so many frames can be read, whatever happens."""
        self.num_flushed = num_frames
        self._whole_bytes = file.tell()
        if num_frames >= self.keep_frames:
            self._take_place()

    def _cut(self) -> None:
        """Leave the file as it was after the last flushed frame. Its index would not find room."""
        assert self._output is not None
        (container, _, file), self._output = self._output, None
        file.cut(self._whole_bytes)
        with contextlib.suppress(FFmpegError):  # it would write the index
            container.close()
        file.close()
        self.num_frames = self.num_flushed

    def _take_place(self) -> None:
        """Put a file that was taken up again in place of the old one."""
        if self.keep_frames and continued_path(self.path).exists():
            continued_path(self.path).replace(self.path)

    def _open_output(self) -> tuple[OutputContainer, VideoStream, OutputFile]:
        assert self._size is not None
        movie = {"movflags": "hybrid_fragmented", "flush_packets": "1"}
        file = OutputFile(continued_path(self.path) if self.keep_frames else self.path)
        container = av.open(file, "w", format="mp4", options=movie)
        if self.comment:
            container.metadata["comment"] = self.comment
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
        if self.keep_frames:
            copy_frames(self.path, self.keep_frames, container, stream)
        return container, stream, file


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


def read_comment(path: str | Path) -> str:
    """Return the comment in a file's header; empty if it has none.

    Raises:
        ValueError: If the file is missing or unreadable.
    """
    try:
        with av.open(str(path)) as container:
            return container.metadata.get("comment", "")
    except (FFmpegError, OSError) as error:
        raise ValueError(f"video file '{path}' cannot be read: {error.strerror}") from error
