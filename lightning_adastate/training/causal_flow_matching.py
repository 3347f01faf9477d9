"""Causal flow matching through the streaming window: the init of a causal generator that can use an anchor."""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_adastate.anchors import Anchor
from lightning_adastate.backbones import Backbone
from lightning_adastate.caches import Cache
from lightning_adastate.codecs import Codec
from lightning_adastate.losses import FlowMatchingLoss
from lightning_adastate.noise import NoiseSource
from lightning_adastate.schedules import Schedule
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.text import TextEncoder
from lightning_adastate.training.flow_matching import PRETRAINING
from lightning_adastate.training.optimization import Optimization
from lightning_adastate.training.pretraining import Draws, Pretraining
from lightning_adastate.types import StreamState


class CausalFlowMatching(Pretraining):
    """Teacher forcing chunk by chunk, with exactly the window, positions and evictions of streaming.

    Every chunk of a clip is noised and predicted from clean keys and values of what the cache keeps and
    the anchor shows; then its clean frames are committed. A hidden state (AdaState) is denoised too: it
    stands for the clip's frames just before the window and is supervised here, and nowhere later, like any
    frame. Drawing the anchor anew for each batch makes one set of weights usable by every policy.

    Args:
        backbone: Predicts velocity.
        anchor: What stands in front of the window when this model streams.
        cache: Which frames stay, and all temporal indices.
        schedule: Chunk size; its noise levels are not used here.
        codec: Latents to pixels and back; frozen.
        text_encoder: Prompts to embeddings; frozen.
        loss: Flow-matching loss and its timesteps, one per chunk and clip.
        training_anchors: Anchors to draw from for each batch; empty is ``anchor`` alone.
        anchor_probabilities: How often each is drawn; empty is equally often.
        state_weight: Weight of the hidden frames' error beside the content's.
        context_noise: Committed frames of half the clips are noised to a level up to this, as a
            stream's own frames are not perfect either.
        text_dropout: Share of prompts replaced by ``negative_prompt``.
        negative_prompt: What a dropped prompt becomes.
        optimization: How the network is optimised.
        accumulate: Batches per optimiser step.
        seed: Of everything drawn in training.
        noise: Source of the stream's noise; ``None`` is ``CounterNoise``.
        frame_size: Height and width of the video in pixels.
        weights: File to initialise the backbone from: a path, or a name shipped with the package.
        ema_decay: Keep an average of the network with this decay; ``None`` keeps none.

    Raises:
        ValueError: If probabilities and anchors do not match, or a number is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        anchor: Anchor,
        cache: Cache,
        schedule: Schedule,
        codec: Codec,
        text_encoder: TextEncoder,
        loss: FlowMatchingLoss,
        training_anchors: Sequence[Anchor] = (),
        anchor_probabilities: Sequence[float] = (),
        state_weight: float = 1.0,
        context_noise: float = 0.0,
        text_dropout: float = 0.0,
        negative_prompt: str | None = None,
        optimization: Optimization = PRETRAINING,
        accumulate: int = 1,
        seed: int = 0,
        noise: NoiseSource | None = None,
        frame_size: tuple[int, int] = (480, 832),
        weights: str | None = None,
        ema_decay: float | None = None,
    ) -> None:
        super().__init__(
            backbone,
            anchor=anchor,
            cache=cache,
            schedule=schedule,
            codec=codec,
            text_encoder=text_encoder,
            loss=loss,
            text_dropout=text_dropout,
            negative_prompt=negative_prompt,
            optimization=optimization,
            accumulate=accumulate,
            seed=seed,
            noise=noise,
            frame_size=frame_size,
            weights=weights,
            ema_decay=ema_decay,
        )
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

    def errors(
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
