"""The files of a run: one video and one latents file per stream, and the state of all."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from lightning_adastate.files import make_folder, missing_folders, remove_empty
from lightning_adastate.media.latents import LatentsWriter
from lightning_adastate.media.video import Quality, VideoWriter
from lightning_adastate.streaming.pipeline import VideoChunk
from lightning_adastate.streaming.state_file import save_stream_state
from lightning_adastate.types import StreamState


class VideoOptions(NamedTuple):
    """How a video is written; see ``VideoWriter``."""

    fps: int
    scale: int
    quality: Quality
    chunk_frames: int


def numbered(path: str, row: int, rows: int) -> Path:
    """Return the file of one of ``rows`` streams: ``name.mp4`` alone, else ``name-00.mp4``, ..."""
    whole = Path(path)
    if rows == 1:
        return whole
    return whole.with_name(f"{whole.stem}-{row:0{max(2, len(str(rows - 1)))}d}{whole.suffix}")


class StreamOutputs:
    """Write chunks as they come. Leaving without ``finish`` removes what was begun.

    Args:
        video: Name of the mp4, or ``None``.
        latents: Name of the latents file, or ``None``.
        state: Name of the stream state, or ``None``.
        num_streams: Streams in lock-step; several get numbered names.
        video_options: How videos are written.

    Raises:
        ValueError: If something cannot be written where it is wanted.
    """

    def __init__(
        self,
        *,
        video: str | None,
        latents: str | None,
        state: str | None,
        num_streams: int,
        video_options: VideoOptions,
    ) -> None:
        self.state_path = state
        self.state: StreamState | None = None
        self.done = False
        self.videos: list[VideoWriter] = []
        self.latents: list[LatentsWriter] = []
        self.new_folders = missing_folders(video, latents, state)
        try:
            for row in range(num_streams):
                if video is not None:
                    path = numbered(video, row, num_streams)
                    self.videos.append(VideoWriter(path, **video_options._asdict()))
                if latents is not None:
                    self.latents.append(LatentsWriter(numbered(latents, row, num_streams)))
            if state is not None:
                make_folder(Path(state).parent)
        except ValueError:
            self._discard()
            raise

    @property
    def paths(self) -> list[Path]:
        """Return the files that are there after ``finish``."""
        streams = [one.path for one in self.videos] + [one.path for one in self.latents]
        return streams if self.state_path is None else [*streams, Path(self.state_path)]

    def append(self, piece: VideoChunk) -> None:
        """Write one chunk of every stream."""
        for row, video in enumerate(self.videos):
            video.append(piece.video_BFCHW[row])
        for row, latents in enumerate(self.latents):
            latents.append(piece.chunk.latents_BFCHW[row])
        self.state = piece.state

    def finish(self, fingerprint: str) -> None:
        """Make every file whole.

        Args:
            fingerprint: Of components and weights, to go into the state.
        """
        for video in self.videos:
            video.close()
        for latents in self.latents:
            latents.finish()
        if self.state_path is not None and self.state is not None:
            save_stream_state(self.state_path, self.state, fingerprint=fingerprint)
        self.done = True

    def _discard(self) -> None:
        for latents in self.latents:
            latents.discard()
        for video in self.videos:
            with contextlib.suppress(Exception):
                video.close()
            if video.num_frames:  # otherwise a file of that name is not ours
                video.path.unlink(missing_ok=True)
        remove_empty(self.new_folders)

    def __enter__(self) -> StreamOutputs:
        return self

    def __exit__(self, *error: object) -> None:
        if not self.done:
            self._discard()
