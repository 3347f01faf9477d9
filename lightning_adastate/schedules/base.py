"""The contract of a schedule: the passes of a chunk, and of the chunks denoised with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

from lightning_adastate.components import Component
from lightning_adastate.types import StreamState

AfterExit = Literal["commit", "finish"]
"""What follows when training leaves a chunk at an early pass.

``commit``: its x0 is committed, later passes do not run (Self-Forcing). ``finish``: they run without a
graph, so that what is cached is what streaming caches.
"""


class Level(NamedTuple):
    """Where one chunk ahead stands in a pass it shares with an older chunk (Rolling Forcing).

    Args:
        timestep: Timestep in [0, 1000].
        sigma: Noise level in [0, 1].
        next_sigma: Level to which its x0 is noised afterwards.
        step: How many passes it has had; 0 is its first, from pure noise.
    """

    timestep: float
    sigma: float
    next_sigma: float
    step: int


class Pass(NamedTuple):
    """One forward of the backbone over the live frames.

    Args:
        timestep: Timestep in [0, 1000], of the chunk's own frames and of state frames.
        sigma: Noise level in [0, 1] of the pass's input; x0 = x - sigma * velocity.
        kind: ``denoise`` predicts, ``commit`` writes the chunk's keys and values.
        next_sigma: Level to which x0 is noised afterwards; ``None`` leaves it clean.
        sampler: ``renoise`` draws fresh noise for that, ``euler`` follows the velocity.
        input_sigma: Noise added to the clean latents before a commit pass. A parity switch.
        commit: Keep this pass's keys and values as the chunk's.
        reads_anchor: Whether the pass sees the anchor.
        reads_window: How many of the newest cached frames it sees; ``None`` is all. More than the window
            holds reaches into the cache's history.
        ahead: Levels of the chunks behind this one that are denoised in the same pass, oldest first.
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
    ahead: tuple[Level, ...] = ()


CLEAN_PASS = Pass(0.0, 0.0, "commit", commit=True)
"""What commits given frames where a schedule has no clean pass."""


def denoise_passes(passes: Sequence[Pass]) -> list[Pass]:
    """Return the passes of a chunk that predict."""
    return [each for each in passes if each.kind == "denoise"]


class Schedule(Component, ABC):
    """Own the chunk size, the noise levels, what a pass may read, and what is committed.

    Args:
        chunk_frames: Latent frames per chunk.
        first_chunk_frames: Frames of chunk 0; ``None`` is ``chunk_frames``.

    Raises:
        ValueError: If a chunk has no frames.
    """

    chunk_frames: int
    first_chunk_frames: int

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
        """Return the passes of a chunk in order: denoise passes, then at most one commit pass.

        Args:
            chunk_index: Its number as ``passes_index`` counts: 0 is the first chunk that is generated.
        """

    def opening_passes(self, chunk_index: int) -> Sequence[Pass]:
        """Return the passes of a chunk that finds no part-denoised latents of its own.

        Only a schedule that works ahead needs others than ``passes``.
        """
        return self.passes(chunk_index)

    def passes_index(self, chunk_index: int, given_chunks: int) -> int:
        """Return the number under which ``passes`` knows a chunk: how many were generated before it.

        Image to video then begins as text to video does, with the first chunk's own steps (Causal Forcing's
        public code). A schedule for which given chunks count says so here.

        Args:
            chunk_index: Its place in the stream.
            given_chunks: How many before it were given.
        """
        return chunk_index - given_chunks

    def passes_at(self, chunk_index: int, given_chunks: int = 0) -> Sequence[Pass]:
        """Return the passes of a chunk by its place in a stream, where so many before it were given."""
        return self.passes(self.passes_index(chunk_index, given_chunks))

    def passes_of(self, state: StreamState) -> Sequence[Pass]:
        """Return the passes of a stream's next chunk."""
        index = self.passes_index(state.chunk, state.given_chunks)
        begun = state.pending_BFCHW is not None
        return self.passes(index) if begun else self.opening_passes(index)

    @property
    def num_ahead(self) -> int:
        """Count the chunks ahead that are denoised with a chunk, when all are."""
        return max(len(one.ahead) for one in self.passes(1))

    @property
    def after_exit(self) -> AfterExit:
        """Return what must follow an early exit: a chunk whose cache comes from a later pass finishes."""
        later = any(one.ahead or (one.commit and one.kind == "denoise") for one in self.passes(1))
        return "finish" if later else "commit"
