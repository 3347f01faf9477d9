"""What the stages share that force a teacher's frames through the streaming window, chunk by chunk."""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adastate.anchors import Anchor
from lightning_adastate.backbones import Backbone
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.training.one_loss import Draws
from lightning_adastate.training.pretraining import Pretraining
from lightning_adastate.training.randomness import stream_ids_of
from lightning_adastate.types import StreamState


class TeacherForcing(Pretraining, ABC):
    """Go through true clips with exactly the window, positions and evictions of streaming.

    Drawing the anchor anew for each batch makes one set of weights usable by every policy.

    Args:
        backbone: Predicts velocity.
        training_anchors: Anchors to draw from for each batch; empty is ``anchor`` alone.
        anchor_probabilities: How often each is drawn; empty is equally often.
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
        self.context_noise = context_noise
        for other in training_anchors:
            self._streamer_with(self.generator, other)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the backbone's and all anchors' parameters."""
        return [*super().trained_parameters(), *self.training_anchors.parameters()]

    def draw_streamer(self, streamer: Streamer, draws: Draws) -> Streamer:
        """Draw this batch's anchor, the same on all ranks."""
        if not self.training_anchors:
            return streamer
        shares = torch.tensor(self.anchor_probabilities)
        index = int(torch.multinomial(shares, 1, generator=draws.global_rng))
        anchor = self.training_anchors[index]
        assert isinstance(anchor, Anchor)
        return self._streamer_with(streamer, anchor)

    def open_clip(
        self, streamer: Streamer, latents_BFCHW: Tensor, text_BSD: Tensor, draws: Draws
    ) -> StreamState:
        """Begin a stream for every clip, with noise of its own."""
        return streamer.start(
            text_BSD,
            latent_shape=(latents_BFCHW.shape[2], latents_BFCHW.shape[3], latents_BFCHW.shape[4]),
            seed=draws.stream,
            stream_ids=stream_ids_of(self.global_rank, len(latents_BFCHW)),
        )

    def draw_context_noise(self, like_BFCHW: Tensor, draws: Draws) -> Tensor | None:
        """Draw each clip's context noise level; half the clips have none."""
        if not self.context_noise:
            return None
        rows = len(like_BFCHW)
        level = (
            torch.rand(rows, generator=draws.rank_rng, dtype=torch.float32) * self.context_noise
        )
        level = level * (torch.rand(rows, generator=draws.rank_rng, dtype=torch.float32) < 0.5)
        return level.to(like_BFCHW.device)

    def _streamer_with(self, streamer: Streamer, anchor: Anchor) -> Streamer:
        return Streamer(
            streamer.backbone,
            anchor=anchor,
            cache=streamer.cache,
            schedule=streamer.schedule,
            noise=streamer.noise,
        )
