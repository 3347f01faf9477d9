"""Few-step schedule: predict x0, renoise, repeat, then one clean pass (Self-Forcing, arXiv 2506.08009)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lightning_adastate.flow import SigmaTable
from lightning_adastate.schedules.base import Pass, Schedule
from lightning_adastate.schedules.levels import denoise_passes, noise_levels


class FewStepSchedule(Schedule):
    """Denoise every chunk in the same few steps and commit it in a pass at timestep 0.

    Args:
        chunk_frames: Latent frames per chunk.
        steps: Timesteps in (0, 1000], falling.
        shift: Timestep shift of the noise levels.
        warp: Whether ``steps`` are unshifted and get shifted here (1000, 750, 500, 250 with shift 5
            become 1000, 937.5, 833.3, 625).
        first_chunk_frames: Frames of chunk 0; ``None`` is ``chunk_frames``.
        first_chunk_steps: Steps of the first chunk that is generated, whether or not frames are given
            before it; ``None`` is ``steps`` (Causal Forcing).
        sampler: ``renoise`` draws fresh noise between steps, ``euler`` follows the velocity.
        commit_noise: ``table`` noises the clean pass to the last level of the sigma table, as the
            public training code does by rounding; parity only.

    Raises:
        ValueError: If the steps are empty, not falling, or outside (0, 1000].
    """

    def __init__(
        self,
        chunk_frames: int = 3,
        *,
        steps: Sequence[float] = (1000, 750, 500, 250),
        shift: float = 5.0,
        warp: bool = True,
        first_chunk_frames: int | None = None,
        first_chunk_steps: Sequence[float] | None = None,
        sampler: Literal["renoise", "euler"] = "renoise",
        commit_noise: Literal["none", "table"] = "none",
    ) -> None:
        super().__init__(chunk_frames, first_chunk_frames=first_chunk_frames)
        self.table = SigmaTable(shift)
        self.sampler: Literal["renoise", "euler"] = sampler
        self.warp = warp
        self.commit_sigma = float(self.table.sigmas[-1]) if commit_noise == "table" else 0.0
        self.steps = tuple(steps)
        self.first_chunk_steps = (
            self.steps if first_chunk_steps is None else tuple(first_chunk_steps)
        )
        self._passes = self._build(self.steps, "steps")
        self._first_passes = self._build(self.first_chunk_steps, "first_chunk_steps")

    def passes(self, chunk_index: int) -> Sequence[Pass]:
        """Return the denoise passes and the clean pass of a chunk."""
        return self._first_passes if chunk_index == 0 else self._passes

    def _build(self, steps: Sequence[float], name: str) -> tuple[Pass, ...]:
        levels = noise_levels(self.table, steps, warp=self.warp, name=name)
        clean = Pass(0.0, 0.0, "commit", input_sigma=self.commit_sigma, commit=True)
        return (*denoise_passes(levels, self.sampler), clean)
