"""Recurrent teacher forcing: a hidden state that is the model's own learns from the chunks that come after it."""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_adastate.backbones import Backbone
from lightning_adastate.schedules.base import Pass, denoise_passes
from lightning_adastate.streaming.commit import KVGradient
from lightning_adastate.streaming.denoise import Taught
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.training.one_loss import Draws
from lightning_adastate.training.teacher_forcing import TeacherForcing


class RecurrentFlowMatching(TeacherForcing):
    """Teacher forcing of the content through the passes of streaming; the hidden state is not given.

    Every pass of a chunk sees the true content at the pass's own noise level. The hidden state starts as noise,
    is denoised beside it from pass to pass, and leaves at the exit pass; its clean keys and values reach the
    next chunk with their graph. The one loss is flow matching on the content of the exit pass. So what the
    state holds is trained by what later chunks need of it: back-propagation through the state over the whole
    clip, with the low variance of a regression. No parameter is added.

    This stage is ours: in AdaState's recipe (arXiv 2605.30349) the state's gradient stops at the chunk. With
    an anchor without state frames it is teacher forcing at the schedule's own noise levels.

    Args:
        backbone: Predicts velocity.
        kv_gradient: What cached keys and values pass back; ``all`` is the stage's point, with ``detach``
            nothing is learnt from later chunks.
        exit_shares: How often a chunk leaves at each of its denoise passes; empty is equally often. What the
            state must know shows most where the content is noise, in the first pass.
        **kwargs: Those of ``TeacherForcing``, ``Pretraining`` and ``StreamModule``.

    Raises:
        ValueError: If the shares do not fit the schedule's passes, or it denoises several chunks in one.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        kv_gradient: KVGradient = "all",
        exit_shares: Sequence[float] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        schedule = self.generator.schedule
        if schedule.num_ahead:
            raise ValueError(
                f"RecurrentFlowMatching teaches one chunk at a time, {type(schedule).__name__} denoises "
                f"{schedule.num_ahead} more with it; use FewStepSchedule or DiagonalSchedule"
            )
        count = len(denoise_passes(schedule.passes(1)))
        shares = list(exit_shares) or [1.0] * count
        if len(shares) != count or min(shares) < 0.0 or not sum(shares):
            raise ValueError(
                f"`exit_shares` must be {count} numbers of 0 or more, one per denoise pass, got {list(exit_shares)}"
            )
        self.kv_gradient: KVGradient = kv_gradient
        self.exit_shares = shares

    def clip_errors(
        self, streamer: Streamer, latents_BFCHW: Tensor, text_BSD: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """Return the content's loss over all chunks."""
        streamer = self.draw_streamer(streamer, draws)
        frames = latents_BFCHW.shape[1]
        context = self.draw_context_noise(latents_BFCHW, draws)
        state = self.open_clip(streamer, latents_BFCHW, text_BSD, draws)
        total = latents_BFCHW.new_zeros(())
        for clean in latents_BFCHW.split(streamer.schedule.chunks_of(frames), dim=1):
            passes = denoise_passes(streamer.schedule.passes_of(state))
            exit_step = self._draw_exit(len(passes), draws)
            chunk = streamer.step(
                state,
                taught=Taught(clean, context),
                exit_step=exit_step,
                after_exit="commit",
                kv_gradient=self.kv_gradient,
            )
            state = chunk.state
            total = total + self._error(passes[exit_step], chunk.latents_BFCHW, clean)
        return {"loss": total / frames}

    def _error(self, leaving: Pass, x0_BFCHW: Tensor, clean_BFCHW: Tensor) -> Tensor:
        """Return the velocity's error, summed over the frames: that of x0 over the noise level."""
        rows, frames = clean_BFCHW.shape[:2]
        timestep_BF = clean_BFCHW.new_full((rows, frames), leaving.timestep)
        error: Tensor = self.loss(
            x0_BFCHW / leaving.sigma, clean_BFCHW / leaving.sigma, timestep_BF
        )
        return error * frames

    def _draw_exit(self, num_passes: int, draws: Draws) -> int:
        """Draw the pass a chunk leaves at, the same on all ranks. A first chunk of other passes leaves at any."""
        shares = self.exit_shares if len(self.exit_shares) == num_passes else [1.0] * num_passes
        return int(torch.multinomial(torch.tensor(shares), 1, generator=draws.global_rng))
