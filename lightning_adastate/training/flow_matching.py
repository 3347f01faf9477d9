"""Flow matching in parallel: bidirectional teachers, and causal models under a frame mask."""

# Shapes: B batch, F frames, C channels, H W height / width (of pixels in video_*, of latents elsewhere), S text tokens, D text width.

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_adastate.backbones import Backbone
from lightning_adastate.backbones.masks import diffusion_forcing_mask, teacher_forcing_mask
from lightning_adastate.flow import NUM_TIMESTEPS, add_noise, shift_sigma
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.training.one_loss import Draws
from lightning_adastate.training.pretraining import Pretraining
from lightning_adastate.training.randomness import generator_of


class FlowMatching(Pretraining):
    """Learn velocities of whole clips in one parallel forward.

    ``bidirectional``: one noise level per clip, every frame sees every frame; a teacher.
    ``diffusion_forcing``: one level per chunk, chunks see themselves and earlier noisy ones.
    ``teacher_forcing``: one level per chunk, chunks see themselves and earlier clean ones.
    For a model that is to use an anchor, see ``CausalFlowMatching``.

    Args:
        backbone: Predicts velocity.
        mode: Who sees whom.
        context_frames: First frames that are given in some clips: clean, at timestep 0, without loss.
        context_probability: Share of clips in which they are given.
        **kwargs: Those of ``Pretraining`` and of ``StreamModule``.

    Raises:
        ValueError: If a share is outside [0, 1].
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        mode: Literal["bidirectional", "diffusion_forcing", "teacher_forcing"] = "bidirectional",
        context_frames: int = 0,
        context_probability: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if not 0.0 <= context_probability <= 1.0:
            raise ValueError(f"`context_probability` must be in [0, 1], got {context_probability}")
        if context_probability and context_frames < 1:
            raise ValueError(
                f"`context_probability` {context_probability} needs `context_frames` of 1 or more, "
                f"got {context_frames}"
            )
        self.mode = mode
        self.context_frames = context_frames
        self.context_probability = context_probability

    def clip_errors(
        self, streamer: Streamer, latents_BFCHW: Tensor, text_BSD: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """Return the loss of a batch of clips."""
        rows, frames = latents_BFCHW.shape[:2]
        device = latents_BFCHW.device
        chunks = [frames] if self.mode == "bidirectional" else streamer.schedule.chunks_of(frames)
        repeats = torch.tensor(list(chunks))
        timestep, sigma = (
            part.repeat_interleave(repeats, dim=1).to(device)
            for part in self.loss.draw(rows, len(chunks), draws.rank_rng)
        )
        given = (
            torch.rand(rows, generator=draws.rank_rng, dtype=torch.float32)
            < self.context_probability
        )
        first = torch.arange(frames) < self.context_frames
        free_BF = (~(given[:, None] & first)).float().to(device)
        timestep, sigma = timestep * free_BF, sigma * free_BF
        noise = torch.randn(latents_BFCHW.shape, generator=draws.rank_rng, dtype=torch.float32).to(
            device
        )
        noisy = add_noise(latents_BFCHW, noise, sigma)
        velocity = streamer.backbone(
            noisy,
            timestep_BF=timestep,
            text=streamer.backbone.text_kv(text_BSD),
            mask_FF=self._mask(chunks),
            clean_latents_BFCHW=latents_BFCHW if self.mode == "teacher_forcing" else None,
        ).velocity_BFCHW
        return {"loss": self.loss(velocity, noise - latents_BFCHW, timestep, free_BF)}

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        num_frames: int,
        *,
        given_BFCHW: Tensor | None = None,
        steps: int = 20,
        guidance: float = 1.0,
        seed: int = 0,
    ) -> Tensor:
        """Return whole clips of latents from the bidirectional model, by Euler steps.

        Args:
            prompts: One per clip.
            num_frames: Latent frames.
            given_BFCHW: Clean first frames to keep.
            steps: Forwards of the network.
            guidance: ``uncond + guidance (cond - uncond)``; 1 is none.
            seed: Of the noise.
        """
        backbone = self.streamer.backbone
        text = backbone.text_kv(self.encode_text(prompts))
        negative = None
        if guidance != 1.0:
            if not self.negative_prompt:
                raise ValueError(f"`guidance` {guidance} needs a `negative_prompt`")
            negative = backbone.text_kv(self.encode_text([self.negative_prompt] * len(prompts)))
        shape = (len(prompts), num_frames, *self.codec.latent_shape(*self.frame_size))
        x = torch.randn(shape, generator=generator_of(seed, "sample"), dtype=torch.float32).to(
            self.device
        )
        free_F = torch.ones(num_frames, device=self.device, dtype=torch.float32)
        if given_BFCHW is not None:
            free_F[: given_BFCHW.shape[1]] = 0.0
            x = torch.cat([given_BFCHW.to(x), x[:, given_BFCHW.shape[1] :]], dim=1)
        levels = shift_sigma(
            torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float32), self.loss.table.shift
        ).tolist()
        for now, after in itertools.pairwise(levels):
            timestep = (free_F * now * NUM_TIMESTEPS).expand(len(prompts), -1)
            velocity = backbone(x, timestep_BF=timestep, text=text).velocity_BFCHW
            if negative is not None:
                other = backbone(x, timestep_BF=timestep, text=negative).velocity_BFCHW
                velocity = other + guidance * (velocity - other)
            x = x + (after - now) * velocity * free_F[None, :, None, None, None]
        return x

    def _mask(self, chunks: Sequence[int]) -> Tensor | None:
        if self.mode == "bidirectional":
            return None
        if self.mode == "teacher_forcing":
            return teacher_forcing_mask(chunks)
        return diffusion_forcing_mask(chunks)
