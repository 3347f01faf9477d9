"""Time in a stream: seconds of video to chunks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lightning_adastate.codecs import Codec
from lightning_adastate.schedules import Schedule

UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0, "ms": 0.001}
TIME = re.compile(r"(?:(\d+(?:\.\d+)?)\s*(h|min|ms|s)\s*)+")
PART = re.compile(r"(\d+(?:\.\d+)?)\s*(h|min|ms|s)")


def seconds_of(time: str | float, name: str) -> float:
    """Return a time in seconds: ``90``, ``"90s"``, ``"1.5min"``, ``"1h 30min"``.

    Args:
        time: A number of seconds, or numbers with their units.
        name: The option, for the error.

    Raises:
        ValueError: If it is no time, or is not finite and positive.
    """
    text = str(time).strip()
    if TIME.fullmatch(text):
        seconds = sum(float(number) * UNITS[unit] for number, unit in PART.findall(text))
    else:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0.0):
        raise ValueError(f"`{name}` must be a positive time like 90s, 2min or 1h, got {time!r}")
    return seconds


@dataclass(frozen=True)
class StreamClock:
    """How long chunks last.

    Args:
        schedule: Latent frames of a chunk.
        codec: Pixel frames of a latent frame.
        fps: Pixel frames per second.
        first_chunk: Index of the first chunk that is shown; time begins with it.
    """

    schedule: Schedule
    codec: Codec
    fps: int
    first_chunk: int = 0

    def frames_before(self, num_chunks: int) -> int:
        """Return how many pixel frames that many chunks show, from the first one on."""
        if not num_chunks:
            return 0
        first = self.schedule.frames_of(self.first_chunk)
        shown = first * self.codec.temporal_stride
        if self.first_chunk == 0:
            shown = self.codec.pixel_frames(first)
        return shown + (num_chunks - 1) * self.chunk_frames

    @property
    def chunk_frames(self) -> int:
        """Return how many pixel frames a chunk shows that is not the stream's first."""
        return self.schedule.chunk_frames * self.codec.temporal_stride

    def chunks_of(self, seconds: float) -> int:
        """Return the fewest chunks that show so many seconds, 1 or more."""
        frames = math.ceil(round(seconds * self.fps, 6))
        return 1 + max(0, -(-(frames - self.frames_before(1)) // self.chunk_frames))

    def chunks_between(self, seconds: float) -> int:
        """Return the fewest chunks behind the first that last so long, 1 or more."""
        return max(1, -(-math.ceil(round(seconds * self.fps, 6)) // self.chunk_frames))
