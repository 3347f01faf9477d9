"""Causal flow matching through the streaming window: the init of a causal generator that can use an anchor."""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adastate.anchors import Anchor
from lightning_adastate.backbones import Backbone
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.training.one_loss import Draws
from lightning_adastate.training.pretraining import Pretraining
from lightning_adastate.types import StreamState


class CausalFlowMatching(Pretraining):
    """Teacher forcing chunk by chunk, with exactly the window, positions and evictions of streaming.

    Every chunk of a clip is noised to a level of its own and predicted from clean keys and values of what the
    cache keeps and the anchor shows; then its clean frames are committed. The schedule gives the chunk size; its
    noise levels are not used. A hidden state (AdaState) is denoised too: it stands for the clip's frames just
    before the window and is supervised here, and nowhere later, like any frame. Drawing the anchor anew for each
    batch makes one set of weights usable by every policy.

    Args:
        backbone: Predicts velocity.
        training_anchors: Anchors to draw from for each batch; empty is ``anchor`` alone.
        anchor_probabilities: How often each is drawn; empty is equally often.
        state_weight: Weight of the hidden frames' error beside the content's.
        context_noise: Committed frames of half the clips are noised to a level up to this, as a
            stream's own frames are not perfect either.
        **kwargs: Those of ``Pretraining`` and of ``StreamModule``.

    Raises:
        ValueError: If probabilities and anchors do not match, or a number is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        training_anchors: Sequence[Anchor] = (),
        anchor_probabilities: Sequence[float] = (),
        state_weight: float = 1.0,
        context_noise: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        shares = list(anchor_probabilities) or [1.0] * len(training_anchors)
        if len(shares) != len(training_anchors) or any(share < 0.0 for share in shares):
            raise ValueError(
                f"`anchor_probabilities` must be one number of 0 or more per training anchor, got "
                f"{list(anchor_probabilities)} for {len(training_anchors)} anchors"
            )
        if training_anchors and not sum(shares):
            raise ValueError("`anchor_probabilities` are all zero")
        if not 0.0 <= context_noise < 1.0:
            raise ValueError(f"`context_noise` must be in [0, 1), got {context_noise}")
        self.training_anchors = nn.ModuleList(training_anchors)
        self.anchor_probabilities = shares
        self.state_weight = state_weight
        self.context_noise = context_noise
        for other in training_anchors:
            self._streamer_with(self.generator, other)

    def clip_errors(
        self, streamer: Streamer, latents_BFCHW: Tensor, text_BSD: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """Return the loss over all chunks, and the content's and hidden frames' parts of it."""
        streamer = self._draw_streamer(streamer, draws)
        rows, frames = latents_BFCHW.shape[:2]
        chunks = streamer.schedule.chunks_of(frames)
        device = latents_BFCHW.device
        timestep, sigma = (
            part.to(device) for part in self.loss.draw(rows, len(chunks), draws.rank_rng)
        )
        context = self._draw_context_noise(rows, draws)
        context = None if context is None else context.to(device)
        state = streamer.start(
            text_BSD,
            latent_shape=(latents_BFCHW.shape[2], latents_BFCHW.shape[3], latents_BFCHW.shape[4]),
            seed=draws.stream,
            stream_ids=[self.global_rank * 2**32 + row for row in range(rows)],
        )
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

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the backbone's and all anchors' parameters."""
        return [*super().trained_parameters(), *self.training_anchors.parameters()]

    def _draw_streamer(self, streamer: Streamer, draws: Draws) -> Streamer:
        """Draw this batch's anchor, the same on all ranks."""
        if not self.training_anchors:
            return streamer
        shares = torch.tensor(self.anchor_probabilities)
        index = int(torch.multinomial(shares, 1, generator=draws.global_rng))
        anchor = self.training_anchors[index]
        assert isinstance(anchor, Anchor)
        return self._streamer_with(streamer, anchor)

    def _streamer_with(self, streamer: Streamer, anchor: Anchor) -> Streamer:
        return Streamer(
            streamer.backbone,
            anchor=anchor,
            cache=streamer.cache,
            schedule=streamer.schedule,
            noise=streamer.noise,
        )

    def _draw_context_noise(self, rows: int, draws: Draws) -> Tensor | None:
        """Draw each clip's context noise level; half the clips have none."""
        if not self.context_noise:
            return None
        level = torch.rand(rows, generator=draws.rank_rng) * self.context_noise
        return level * (torch.rand(rows, generator=draws.rank_rng) < 0.5)
