"""Rolling schedule: a window of chunks at rising noise, denoised jointly (Rolling Forcing, arXiv 2509.25161)."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adastate.flow import SigmaTable
from lightning_adastate.schedules.base import Level, Pass, Schedule
from lightning_adastate.schedules.levels import NoiseLevel, denoise_passes, noise_levels


class RollingSchedule(Schedule):
    """Denoise as many chunks as there are steps in one pass, each one level noisier than the one before.

    Every pass finishes the oldest chunk and takes a new one in, so a chunk costs one long pass and its
    clean pass. The first chunk of a stream is preceded by passes over a growing window. Built from the
    paper alone: its code is for academic use.

    Args:
        chunk_frames: Latent frames per chunk.
        steps: Timesteps in (0, 1000], falling: one per chunk of the joint window.
        shift: Timestep shift of the noise levels.
        warp: Whether ``steps`` are unshifted and get shifted here.
        first_chunk_frames: Frames of chunk 0; ``None`` is ``chunk_frames``.
        commit_window: Cached frames the clean pass reads; it then reads no anchor, and more than the
            window holds needs ``history_frames`` of the cache. ``None`` reads what the others read.

    Raises:
        ValueError: If there are fewer than two steps, or they are not falling inside (0, 1000].
    """

    def __init__(
        self,
        chunk_frames: int = 3,
        *,
        steps: Sequence[float] = (1000, 800, 600, 400, 200),
        shift: float = 5.0,
        warp: bool = True,
        first_chunk_frames: int | None = None,
        commit_window: int | None = None,
    ) -> None:
        super().__init__(chunk_frames, first_chunk_frames=first_chunk_frames)
        if len(steps) < 2:
            raise ValueError(
                f"`steps` must be two or more, got {list(steps)}; one step is FewStepSchedule"
            )
        if commit_window is not None and commit_window < 0:
            raise ValueError(f"`commit_window` must be 0 or more, got {commit_window}")
        self.table = SigmaTable(shift)
        self.warp = warp
        self.steps = tuple(steps)
        self.commit_window = commit_window
        levels = noise_levels(self.table, self.steps, warp=warp, name="steps")
        clean = Pass(
            0.0,
            0.0,
            "commit",
            commit=True,
            reads_anchor=commit_window is None,
            reads_window=commit_window,
        )
        opening = [
            denoise_pass._replace(ahead=_ladder(levels, index))
            for index, denoise_pass in enumerate(denoise_passes(levels))
        ]
        self._opening = (*opening, clean)
        self._passes = (opening[-1], clean)

    def passes(self, chunk_index: int) -> Sequence[Pass]:
        """Return the joint pass that finishes the chunk, and its clean pass."""
        del chunk_index
        return self._passes

    def opening_passes(self, chunk_index: int) -> Sequence[Pass]:
        """Return the passes that fill the joint window, the last of which finishes the chunk."""
        del chunk_index
        return self._opening


def _ladder(levels: Sequence[NoiseLevel], index: int) -> tuple[Level, ...]:
    """Return the levels of the chunks ahead while the chunk itself is in its pass ``index``."""
    return tuple(
        Level(*levels[step], next_sigma=levels[step + 1].sigma, step=step)
        for step in range(index - 1, -1, -1)
    )
