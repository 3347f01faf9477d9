"""Causal flow matching through the streaming window: the init of a causal generator that can use an anchor."""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_adastate.backbones import Backbone
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.training.one_loss import Draws
from lightning_adastate.training.teacher_forcing import TeacherForcing
from lightning_adastate.types import StreamState


class CausalFlowMatching(TeacherForcing):
    """Teacher forcing chunk by chunk, with exactly the window, positions and evictions of streaming.

    Every chunk of a clip is noised to a level of its own and predicted from clean keys and values of what the
    cache keeps and the anchor shows; then its clean frames are committed. The schedule gives the chunk size; its
    noise levels are not used. A hidden state (AdaState) is denoised too: it stands for the clip's frames just
    before the window and is supervised here, and nowhere later, like any frame.

    Args:
        backbone: Predicts velocity.
        state_weight: Weight of the hidden frames' error beside the content's.
        **kwargs: Those of ``TeacherForcing``, ``Pretraining`` and ``StreamModule``.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        state_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.state_weight = state_weight

    def clip_errors(
        self, streamer: Streamer, latents_BFCHW: Tensor, text_BSD: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """Return the loss over all chunks, and the content's and hidden frames' parts of it."""
        streamer = self.draw_streamer(streamer, draws)
        rows, frames = latents_BFCHW.shape[:2]
        chunks = streamer.schedule.chunks_of(frames)
        device = latents_BFCHW.device
        timestep, sigma = (
            part.to(device) for part in self.loss.draw(rows, len(chunks), draws.rank_rng)
        )
        context = self.draw_context_noise(latents_BFCHW, draws)
        state = self.open_clip(streamer, latents_BFCHW, text_BSD, draws)
        content, hidden, num_hidden = latents_BFCHW.new_zeros(()), [], 0
        for index, size in enumerate(chunks):
            first = state.first_frame
            lagged = self.hidden_frames(streamer, state)
            velocity, target, chunk = streamer.teacher_forcing_step(
                state,
                latents_BFCHW[:, first : first + size],
                timestep_B=timestep[:, index],
                sigma_B=sigma[:, index],
                state_BFCHW=latents_BFCHW[:, lagged] if lagged else None,
                context_sigma_B=context,
            )
            state, split = chunk.state, len(lagged)
            times = timestep[:, index, None]
            error = self.loss(velocity[:, split:], target[:, split:], times.expand(-1, size))
            content = content + error * size
            if split:
                error = self.loss(velocity[:, :split], target[:, :split], times.expand(-1, split))
                hidden.append(error * split)
                num_hidden += split
        errors = {"loss": content / frames, "loss_content": content / frames}
        if hidden:
            total = torch.stack(hidden).sum()
            weight = frames + self.state_weight * num_hidden
            errors["loss"] = (content + self.state_weight * total) / weight
            errors["loss_state"] = total / num_hidden
        return errors

    @staticmethod
    def hidden_frames(streamer: Streamer, state: StreamState) -> list[int]:
        """Return which of the clip's frames the coming chunk's hidden frames stand for.

        The newest ones before the window. If fewer have left it, frame 0 is repeated.
        """
        count = streamer.live_state_frames(state)
        size = streamer.schedule.frames_of(state.chunk)
        room = streamer.cache.capacity(num_new=size, anchor_frames=streamer.anchor.num_frames)
        start = state.first_frame - min(len(state.cached_frame_indices), max(0, room))
        return [max(0, index) for index in range(start - count, start)]
