"""What the stages that learn from real videos share."""

# Shapes: B batch, F frames, C channels, H W height / width (of pixels in video_*, of latents elsewhere), S text tokens, D text width.

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adastate.anchors import Anchor
from lightning_adastate.backbones import Backbone
from lightning_adastate.caches import Cache
from lightning_adastate.codecs import Codec
from lightning_adastate.losses import FlowMatchingLoss
from lightning_adastate.noise import NoiseSource
from lightning_adastate.schedules import Schedule
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.text import TextEncoder
from lightning_adastate.training.manual import ManualModule
from lightning_adastate.training.optimization import Optimization
from lightning_adastate.training.randomness import fold_seed, generator_of
from lightning_adastate.types import VideoBatch


class Draws(NamedTuple):
    """Where one batch's random numbers come from.

    Args:
        rank_rng: Different on every rank.
        global_rng: The same on all ranks.
        stream: Seed for streams.
    """

    rank_rng: torch.Generator
    global_rng: torch.Generator
    stream: int


class Pretraining(ManualModule, ABC):
    """Learn velocities of real videos with one optimiser.

    Args:
        backbone: Predicts velocity.
        anchor: What stands in front of the window when this model streams.
        cache: Which frames stay, and all temporal indices.
        schedule: Chunk size and passes.
        codec: Latents to pixels and back; frozen.
        text_encoder: Prompts to embeddings; frozen.
        loss: Flow-matching loss and its timesteps.
        text_dropout: Share of prompts replaced by ``negative_prompt``, so that guidance has something to
            compare with.
        negative_prompt: What a dropped prompt becomes.
        optimization: How the network is optimised.
        accumulate: Batches per optimiser step.
        seed: Of everything drawn in training.
        noise: Source of the stream's noise; ``None`` is ``CounterNoise``.
        frame_size: Height and width of the video in pixels.
        weights: File to initialise the backbone from: a path, or a name shipped with the package.
        ema_decay: Keep an average of the network with this decay; ``None`` keeps none.

    Raises:
        ValueError: If ``text_dropout`` is no share, or has no prompt to put in.
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
        text_dropout: float,
        negative_prompt: str | None,
        optimization: Optimization,
        accumulate: int,
        seed: int,
        noise: NoiseSource | None,
        frame_size: tuple[int, int],
        weights: str | None,
        ema_decay: float | None,
    ) -> None:
        super().__init__(
            backbone,
            anchor=anchor,
            cache=cache,
            schedule=schedule,
            codec=codec,
            text_encoder=text_encoder,
            optimization=optimization,
            accumulate=accumulate,
            seed=seed,
            noise=noise,
            frame_size=frame_size,
            weights=weights,
            ema_decay=ema_decay,
        )
        if not 0.0 <= text_dropout <= 1.0:
            raise ValueError(f"`text_dropout` must be in [0, 1], got {text_dropout}")
        if text_dropout and not negative_prompt:
            raise ValueError(f"`text_dropout` {text_dropout} needs a `negative_prompt`")
        self.loss = loss
        self.text_dropout = text_dropout
        self.negative_prompt = negative_prompt

    @abstractmethod
    def errors(
        self, streamer: Streamer, latents_BFCHW: Tensor, text_BSD: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """Return scalars to log; the one named ``loss`` is what is minimised.

        Args:
            streamer: Whose network is asked.
            latents_BFCHW: Clean latents of the clips, ``[B, F, C, H, W]``.
            text_BSD: Text embeddings.
            draws: Where random numbers come from.
        """

    def training_step(self, batch: VideoBatch, batch_idx: int) -> None:
        """Back-propagate one batch, and step if the optimiser step is whole."""
        del batch_idx
        draws = self._draws(self.batches_seen, "training")
        latents, text_BSD = self.encode_batch(batch, draws)
        errors = self.errors(self.generator, latents, text_BSD, draws)
        self.manual_backward(errors["loss"] / self.accumulate)
        if self.completes_step:
            self.log("train/grad_norm", self.step_generator())
        logs = {f"train/{name}": value.detach() for name, value in errors.items()}
        self.log_dict(logs, prog_bar=True)
        self.log_step()
        self.batches_seen += 1

    def scores(self, batch: VideoBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return the same numbers of what will be used for streaming, on noise that never changes."""
        draws = self._draws(batch_idx, "validation")
        latents, text_BSD = self.encode_batch(batch, draws)
        return self.errors(self.streamer, latents, text_BSD, draws)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser of the backbone and of the anchors that have parameters."""
        return self.optimization.build(self.trained_parameters())

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Return what is optimised."""
        return list(self.generator.parameters())

    @torch.no_grad()
    def encode_batch(self, batch: VideoBatch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return clean latents ``[B, F, C, H, W]`` and text embeddings, some prompts dropped in training."""
        prompts = list(batch["prompts"])
        if self.training and self.text_dropout and self.negative_prompt is not None:
            dropped = torch.rand(len(prompts), generator=draws.rank_rng) < self.text_dropout
            prompts = [
                self.negative_prompt if gone else prompt
                for prompt, gone in zip(prompts, dropped.tolist(), strict=True)
            ]
        return self.codec.encode(batch["video"].float()), self.encode_text(prompts)

    def _draws(self, batch: int, phase: str) -> Draws:
        key = (self.seed, batch, phase)
        return Draws(
            generator_of(*key, self.global_rank), generator_of(*key, "all"), fold_seed(*key)
        )
