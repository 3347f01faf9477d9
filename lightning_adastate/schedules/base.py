"""The contract of a schedule: the passes of a chunk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple


class Pass(NamedTuple):
    """One forward of the backbone over the live frames.

    Args:
        timestep: Timestep in [0, 1000], of every live frame.
        sigma: Noise level in [0, 1] of the pass's input; x0 = x - sigma * velocity.
        kind: ``denoise`` predicts, ``commit`` writes the chunk's keys and values.
        next_sigma: Level to which x0 is noised afterwards; ``None`` leaves it clean.
        sampler: ``renoise`` draws fresh noise for that, ``euler`` follows the velocity.
        input_sigma: Noise added to the clean latents before a commit pass. A parity switch.
        commit: Keep this pass's keys and values as the chunk's.
        reads_anchor: Whether the pass sees the anchor.
        reads_window: How many of the newest cached frames it sees; ``None`` is all.
    """

    timestep: float
    sigma: float
    kind: Literal["denoise", "commit"]
    next_sigma: float | None = None
    sampler: Literal["renoise", "euler"] = "renoise"
    input_sigma: float = 0.0
    commit: bool = False
    reads_anchor: bool = True
    reads_window: int | None = None


class Schedule(ABC):
    """Own the chunk size, the noise levels, what a pass may read, and what is committed.

    Args:
        chunk_frames: Latent frames per chunk.
        first_chunk_frames: Frames of chunk 0; ``None`` is ``chunk_frames``.

    Raises:
        ValueError: If a chunk has no frames.
    """

    def __init__(self, chunk_frames: int = 3, *, first_chunk_frames: int | None = None) -> None:
        for name, value in (
            ("chunk_frames", chunk_frames),
            ("first_chunk_frames", first_chunk_frames),
        ):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {value}")
        self.chunk_frames = chunk_frames
        self.first_chunk_frames = (
            chunk_frames if first_chunk_frames is None else first_chunk_frames
        )

    def frames_of(self, chunk_index: int) -> int:
        """Return the number of content frames of a chunk."""
        return self.first_chunk_frames if chunk_index == 0 else self.chunk_frames

    def chunks_of(self, num_frames: int) -> tuple[int, ...]:
        """Split a clip of ``num_frames`` into chunk sizes.

        Raises:
            ValueError: If the clip is not a whole number of chunks.
        """
        rest = num_frames - self.first_chunk_frames
        if rest < 0 or rest % self.chunk_frames:
            raise ValueError(
                f"{num_frames} latent frames are not chunks of {self.first_chunk_frames} + n x "
                f"{self.chunk_frames} frames"
            )
        return (self.first_chunk_frames, *[self.chunk_frames] * (rest // self.chunk_frames))

    @abstractmethod
    def passes(self, chunk_index: int) -> Sequence[Pass]:
        """Return the passes of a chunk in order: denoise passes, then at most one commit pass."""
