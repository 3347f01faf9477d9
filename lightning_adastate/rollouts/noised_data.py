"""Noised data: real clips at random noise levels, denoised in one pass (CausVid, arXiv 2412.07772)."""

# Shapes: B batch, F frames, K chunks, C channels, H W latent height / width.

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lightning_adastate.backbones.masks import diffusion_forcing_mask
from lightning_adastate.flow import add_noise, velocity_to_x0
from lightning_adastate.rollouts.base import ChunkRecompute, Request, Rollout, Rollouts
from lightning_adastate.schedules import Schedule
from lightning_adastate.schedules.base import denoise_passes
from lightning_adastate.streaming.streamer import Streamer


class NoisedData(Rollouts):
    """Noise real clips, every chunk to a random level of the schedule, and score what they are taken for.

    One parallel block-causal forward (diffusion forcing): chunks see themselves and the noisy ones before
    them. No chunk is made from the model's own output, so errors that build up are not trained against;
    this is what self-forcing is compared with. Built from the paper alone.

    Args:
        window_frames: Frames a chunk sees, its own included; ``None`` is all before it.

    Raises:
        ValueError: If ``window_frames`` is less than 1.
    """

    def __init__(self, window_frames: int | None = None) -> None:
        if window_frames is not None and window_frames < 1:
            raise ValueError(f"`window_frames` must be 1 or more, got {window_frames}")
        self.window_frames = window_frames

    def clip_frames(self, num_frames: int, context_frames: int) -> int:
        """Ask for whole clips."""
        del context_frames
        return num_frames

    def check(self, streamer: Streamer, num_frames: int, context_frames: int) -> None:
        """Refuse a hidden state, which a parallel forward has no place for."""
        super().check(streamer, num_frames, context_frames)
        if streamer.anchor.num_state_frames:
            raise ValueError(
                f"NoisedData cannot train the hidden state of {type(streamer.anchor).__name__}; use "
                "another anchor, or FreshRollouts"
            )
        if self.window_frames is not None and self.window_frames < streamer.schedule.chunk_frames:
            raise ValueError(
                f"`window_frames` {self.window_frames} is less than a chunk of "
                f"{streamer.schedule.chunk_frames} frames"
            )

    def make(self, request: Request) -> Rollout:
        """Noise the clips and denoise them once."""
        clip = request.clip_BFCHW
        assert clip is not None, "clip_frames asked for it"
        timestep, sigma = self._levels(request, clip)
        noise = torch.randn(
            clip.shape, generator=request.rank_rng("noise"), dtype=torch.float32
        ).to(clip)
        forward = partial(self._forward, request, add_noise(clip, noise, sigma), timestep, sigma)
        recomputes = (ChunkRecompute(0, forward),) if request.keep_recomputes else ()
        return Rollout(
            forward(),
            request.text_BSD,
            None,
            given_frames=request.context_frames,
            recomputes=recomputes,
        )

    def _levels(self, request: Request, clip_BFCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Draw timesteps and noise levels, ``[B, F]`` each, one per row and chunk; given frames get 0."""
        rows, frames = clip_BFCHW.shape[:2]
        schedule = request.streamer.schedule
        sizes = torch.tensor(schedule.chunks_of(frames))
        generator = request.rank_rng("levels")
        context = request.context_frames
        given = len(schedule.chunks_of(context)) if context else 0
        drawn = torch.stack(
            [
                _draw(schedule, chunk, min(chunk, given), rows, generator)
                for chunk in range(len(sizes))
            ],
            dim=1,
        )
        drawn_BFX = drawn.repeat_interleave(sizes, dim=1)
        drawn_BFX[:, :context] = 0.0
        timestep, sigma = drawn_BFX.to(clip_BFCHW.device).unbind(dim=2)
        return timestep, sigma

    def _forward(
        self, request: Request, noisy_BFCHW: Tensor, timestep_BF: Tensor, sigma_BF: Tensor
    ) -> Tensor:
        backbone, schedule = request.streamer.backbone, request.streamer.schedule
        chunks = schedule.chunks_of(noisy_BFCHW.shape[1])
        velocity = backbone(
            noisy_BFCHW,
            timestep_BF=timestep_BF,
            text=backbone.text_kv(request.text_BSD),
            mask_FF=diffusion_forcing_mask(chunks, window_frames=self.window_frames),
        ).velocity_BFCHW
        return velocity_to_x0(velocity.to(noisy_BFCHW.dtype), noisy_BFCHW, sigma_BF)


def _draw(
    schedule: Schedule, chunk: int, given_chunks: int, rows: int, generator: torch.Generator
) -> Tensor:
    """Draw a level of a chunk for every row: timestep and sigma, ``[B, 2]``."""
    passes = denoise_passes(schedule.passes_at(chunk, given_chunks))
    levels = torch.tensor([[one.timestep, one.sigma] for one in passes], dtype=torch.float32)
    return levels[torch.randint(0, len(passes), (rows,), generator=generator)]
