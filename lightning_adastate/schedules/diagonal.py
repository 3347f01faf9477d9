"""Diagonal schedule: many steps for the first chunks, few for the others (arXiv 2603.09488)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lightning_adastate.flow import SigmaTable
from lightning_adastate.schedules.base import Pass, Schedule
from lightning_adastate.schedules.levels import denoise_passes, noise_levels

Cached = Literal["last_pass", "renoised", "clean"]
"""Whose keys and values later chunks read.

``last_pass``: those of the last denoise pass, so no pass is spent on the cache (the released code).
``renoised``: those of an extra pass over the chunk, noised again to its last level (the paper's training).
``clean``: those of a clean pass.
"""


class DiagonalSchedule(Schedule):
    """Give every chunk its own steps, and cache slightly noisy frames.

    Given chunks count as chunks: they are the foundation that the first steps are spent on. The public code
    spends even less behind given frames, the last list of steps on all chunks: give that one alone.

    Args:
        chunk_frames: Latent frames per chunk.
        steps: One list of falling timesteps in (0, 1000] per chunk; the last serves all later chunks.
            The paper has 5, 4, 3, then 2 steps, its code 4, 3, then 2.
        shift: Timestep shift of the noise levels.
        warp: Whether ``steps`` are unshifted and get shifted here (with shift 5, 100 becomes 357).
        cached: Whose keys and values later chunks read: ``last_pass`` the last denoise pass's,
            ``renoised`` those of the chunk noised again to that level, ``clean`` a clean pass's.
        clean_chunks: The first so many chunks get a clean pass in any case.
        first_chunk_frames: Frames of chunk 0; ``None`` is ``chunk_frames``.

    Raises:
        ValueError: If there is no list of steps, or one is not falling inside (0, 1000].
    """

    def __init__(
        self,
        chunk_frames: int = 3,
        *,
        steps: Sequence[Sequence[float]] = (
            (1000, 750, 500, 100),
            (1000, 750, 100),
            (1000, 100),
        ),
        shift: float = 5.0,
        warp: bool = True,
        cached: Cached = "last_pass",
        clean_chunks: int = 0,
        first_chunk_frames: int | None = None,
    ) -> None:
        super().__init__(chunk_frames, first_chunk_frames=first_chunk_frames)
        if not steps:
            raise ValueError("`steps` must hold one list of timesteps or more, got none")
        if clean_chunks < 0:
            raise ValueError(f"`clean_chunks` must be 0 or more, got {clean_chunks}")
        self.table = SigmaTable(shift)
        self.warp = warp
        self.cached: Cached = cached
        self.clean_chunks = clean_chunks
        self.steps = tuple(tuple(chunk) for chunk in steps)
        last = max(len(self.steps), clean_chunks + 1)
        self._passes = tuple(self._build(chunk) for chunk in range(last))

    def passes(self, chunk_index: int) -> Sequence[Pass]:
        """Return the passes of a chunk."""
        return self._passes[min(chunk_index, len(self._passes) - 1)]

    def passes_index(self, chunk_index: int, given_chunks: int) -> int:
        """Count given chunks too."""
        del given_chunks
        return chunk_index

    def _build(self, chunk: int) -> tuple[Pass, ...]:
        row = min(chunk, len(self.steps) - 1)
        levels = noise_levels(self.table, self.steps[row], warp=self.warp, name=f"steps[{row}]")
        denoise = denoise_passes(levels)
        if self.cached == "clean" or chunk < self.clean_chunks:
            return (*denoise, Pass(0.0, 0.0, "commit", commit=True))
        if self.cached == "last_pass":
            return (*denoise[:-1], denoise[-1]._replace(commit=True))
        timestep, sigma = levels[-1]
        return (*denoise, Pass(timestep, 0.0, "commit", input_sigma=sigma, commit=True))
