"""What the stages that learn the velocities of real clips share."""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_adastate.backbones import Backbone
from lightning_adastate.losses import FlowMatchingLoss
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.training.one_loss import Draws, OneLoss
from lightning_adastate.types import VideoBatch


class Pretraining(OneLoss, ABC):
    """Learn velocities of real clips; some prompts are dropped, for guidance.

    Args:
        backbone: Predicts velocity.
        loss: Flow-matching loss and its timesteps.
        text_dropout: Share of prompts replaced by ``negative_prompt``, so that guidance has something to
            compare with.
        negative_prompt: What a dropped prompt becomes.
        **kwargs: Those of ``ManualModule``.

    Raises:
        ValueError: If ``text_dropout`` is no share, or has no prompt to put in.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        loss: FlowMatchingLoss,
        text_dropout: float = 0.0,
        negative_prompt: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if not 0.0 <= text_dropout <= 1.0:
            raise ValueError(f"`text_dropout` must be in [0, 1], got {text_dropout}")
        if text_dropout and not negative_prompt:
            raise ValueError(f"`text_dropout` {text_dropout} needs a `negative_prompt`")
        self.loss = loss
        self.text_dropout = text_dropout
        self.negative_prompt = negative_prompt

    def errors(self, streamer: Streamer, batch: VideoBatch, draws: Draws) -> dict[str, Tensor]:
        """Return the errors of a batch of clips."""
        latents_BFCHW, text_BSD = self.encode_batch(batch, draws)
        return self.clip_errors(streamer, latents_BFCHW, text_BSD, draws)

    @abstractmethod
    def clip_errors(
        self, streamer: Streamer, latents_BFCHW: Tensor, text_BSD: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """Return scalars to log; the one named ``loss`` is minimised.

        Args:
            streamer: Its network is evaluated.
            latents_BFCHW: Clean latents of the clips, ``[B, F, C, H, W]``.
            text_BSD: Text embeddings.
            draws: Where random numbers come from.
        """

    @torch.no_grad()
    def encode_batch(self, batch: VideoBatch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return clean latents ``[B, F, C, H, W]`` and text embeddings, some prompts dropped in training."""
        prompts = list(batch["prompts"])
        if self.training and self.text_dropout and self.negative_prompt is not None:
            dropped = (
                torch.rand(len(prompts), generator=draws.rank_rng, dtype=torch.float32)
                < self.text_dropout
            )
            prompts = [
                self.negative_prompt if gone else prompt
                for prompt, gone in zip(prompts, dropped.tolist(), strict=True)
            ]
        return self.codec.encode(batch["video"].float()), self.encode_text(prompts)
