"""The files of a run: one video and one latents file per stream, and the state of all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from lightning_adastate.media.latents import LatentsWriter
from lightning_adastate.media.state_view import state_beside
from lightning_adastate.media.video import Quality, VideoWriter
from lightning_adastate.streaming.pipeline import VideoChunk
from lightning_adastate.streaming.state_file import save_stream_state
from lightning_adastate.types import Chunk, StreamState


class VideoOptions(NamedTuple):
    """How a video is written; see ``VideoWriter``."""

    fps: int
    scale: int
    quality: Quality
    chunk_frames: int


class StateVideo(NamedTuple):
    """A video that shows the hidden state: its name, and what makes pictures of a chunk's state if it has one."""

    path: str
    decode: Callable[[Chunk], Tensor | None]


class Made(NamedTuple):
    """How much of an output there is, in each of its streams."""

    num_chunks: int = 0
    video_frames: int = 0
    latent_frames: int = 0


def numbered(path: str | Path, row: int, rows: int) -> Path:
    """Return the file of one of ``rows`` streams: ``name.mp4`` alone, else ``name-00.mp4``, ..."""
    whole = Path(path)
    if rows == 1:
        return whole
    return whole.with_name(f"{whole.stem}-{row:0{max(2, len(str(rows - 1)))}d}{whole.suffix}")


class StreamOutputs:
    """Write chunks as they come, from the beginning or behind what was made before.

    Args:
        video: Name of the mp4, or ``None``.
        state_video: Name of the mp4 that shows the hidden state beside it, and what decodes it, or ``None``.
        latents: Name of the latents file, or ``None``.
        state: Name of the stream state, or ``None``.
        begun: The state the stream goes on from; its first dimension is the streams in lock-step, and several get
            numbered names.
        video_options: How videos are written.
        made: What is there already and belongs to that state.
        fingerprint: Of components and weights, to go into the state.

    Raises:
        ValueError: If something cannot be written where it is wanted, or does not hold what was made.
    """

    def __init__(
        self,
        *,
        video: str | None,
        latents: str | None,
        state: str | None,
        begun: StreamState,
        video_options: VideoOptions,
        made: Made | None = None,
        fingerprint: str = "",
        state_video: StateVideo | None = None,
    ) -> None:
        self.state_path = state
        self.fingerprint = fingerprint
        self.state = begun
        self.made = Made() if made is None else made
        self.state_video = state_video
        self.videos: list[VideoWriter] = []
        self.state_videos: list[VideoWriter] = []
        self.latents: list[LatentsWriter] = []
        rows = begun.batch_size
        try:
            for row in range(rows):
                options = {**video_options._asdict(), "keep_frames": self.made.video_frames}
                if video is not None:
                    self.videos.append(VideoWriter(numbered(video, row, rows), **options))
                if state_video is not None:
                    path = numbered(state_video.path, row, rows)
                    self.state_videos.append(VideoWriter(path, **options))
                if latents is not None:
                    path, kept = numbered(latents, row, rows), self.made.latent_frames
                    shape = begun.latent_shape
                    self.latents.append(LatentsWriter(path, frame_shape=shape, keep_frames=kept))
        except ValueError:
            if not self.made.num_chunks:
                self.discard()
            raise

    @property
    def all_videos(self) -> list[VideoWriter]:
        """Return the videos of all streams, and those with their states."""
        return [*self.videos, *self.state_videos]

    @property
    def paths(self) -> list[Path]:
        """Return the files that are there after ``finish``."""
        streams = [one.path for one in self.all_videos] + [one.path for one in self.latents]
        return streams if self.state_path is None else [*streams, Path(self.state_path)]

    def append(self, piece: VideoChunk) -> None:
        """Write one chunk of every stream.

        Raises:
            OSError: If there is no room, naming the file.
        """
        for row, video in enumerate(self.videos):
            video.append(piece.video_BFCHW[row])
        self._append_states(piece)
        for row, latents in enumerate(self.latents):
            latents.append(piece.chunk.latents_BFCHW[row])
        self.state = piece.state
        self.made = Made(
            self.made.num_chunks + 1,
            self.made.video_frames + piece.video_BFCHW.shape[1],
            self.made.latent_frames + piece.chunk.latents_BFCHW.shape[1],
        )

    def _append_states(self, piece: VideoChunk) -> None:
        if self.state_video is None:
            return
        states = self.state_video.decode(piece.chunk)
        for row, video in enumerate(self.state_videos):
            state = None if states is None else states[row]
            video.append(state_beside(piece.video_BFCHW[row], state))

    def hold(self, made: Made) -> bool:
        """Whether so much can be read, whatever happens to this process."""
        return all(video.num_flushed >= made.video_frames for video in self.all_videos) and all(
            latents.num_frames >= made.latent_frames for latents in self.latents
        )

    def sync(self) -> None:
        """Wait until what can be read is on the disk.

        Raises:
            OSError: Naming the file.
        """
        for video in self.all_videos:
            video.sync()
        for latents in self.latents:
            latents.sync()

    def finish(self) -> list[OSError]:
        """Make every file whole, and return what went wrong with some of them.

        A video that finds no room for its end still plays; a state is written if what the next chunk reads is
        finite.
        """
        steps: list[Callable[[], None]] = [video.close for video in self.all_videos]
        steps += [latents.finish for latents in self.latents]
        steps.append(self._save_state)
        return [error for error in map(_attempt, steps) if error is not None]

    def discard(self) -> None:
        """Leave nothing of what was begun."""
        for latents in self.latents:
            latents.discard()
        for video in self.all_videos:
            begun = video.num_frames > 0  # otherwise a file of that name is not ours
            _attempt(video.close)
            if begun:
                video.path.unlink(missing_ok=True)

    def _save_state(self) -> None:
        if self.state_path is not None and self.state.is_finite:
            save_stream_state(self.state_path, self.state, fingerprint=self.fingerprint)


def _attempt(step: Callable[[], None]) -> OSError | None:
    """Return what kept a step from being done."""
    try:
        step()
    except OSError as error:
        return error
    return None
