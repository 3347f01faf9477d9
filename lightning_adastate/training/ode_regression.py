"""ODE regression: a few-step causal generator learns where a teacher's ODE ends (CausVid, Causal Forcing)."""

# Shapes: B batch, K states, G chunks, F frames, C channels, H W latent height / width.

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from lightning_adastate.backbones import Backbone
from lightning_adastate.flow import NUM_TIMESTEPS, velocity_to_x0
from lightning_adastate.rollouts.base import generated_chunks
from lightning_adastate.schedules.base import denoise_passes
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.training.one_loss import Draws, OneLoss
from lightning_adastate.training.parallel import (
    Context,
    Reads,
    causal_mask,
    masked_velocity,
    stream_sigmas,
)
from lightning_adastate.types import PromptBatch, TrajectoryBatch, VideoBatch

SAME_SIGMA = 2e-3
"""A state this near to a step's noise level is that step's."""


class Choice(NamedTuple):
    """A state a chunk may start from: its place in the trajectory, and the level the network is evaluated at."""

    state: int
    timestep: float
    sigma: float


class ODERegression(OneLoss):
    """Regress the clean end of a teacher's ODE from its states at the generator's own noise levels.

    One parallel forward over the clip; every chunk starts from a state of its own. With ``context: noisy``
    chunks see the earlier noisy ones and the trajectories are a bidirectional teacher's: the init of CausVid
    (arXiv 2412.07772) and of Self-Forcing. With ``context: clean`` they see the real clip's earlier chunks, as
    the autoregressive teacher did that made the trajectories: causal ODE distillation (Causal Forcing). The
    schedule's noise levels are trained; the anchor is not shown in this stage.

    Args:
        backbone: Predicts velocity; starts from the teacher's weights.
        context: The past a chunk sees.
        reads: How much of it: what the cache keeps, or everything (the papers, 21 frames).
        draw: Draw a state for every chunk, or one for a whole clip (public Causal-Forcing code).
        clean_probability: Share of chunks that are left clean, without loss, so that later chunks learn to read
            a clean past, as a stream's is. CausVid has 0.25, Self-Forcing 0. Only with ``context: noisy``.
        context_frames: First frames that were given to the teacher: clean, without loss. Whole chunks.
        off_schedule: What happens if the trajectories lack a noise level of the schedule: they are refused, or
            all their states are trained, at levels that streaming does not use.
        **kwargs: Those of ``OneLoss``.

    Raises:
        ValueError: If a number is out of range or two arguments exclude each other; in training, if the
            trajectories are not of this kind or not at these noise levels.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        context: Context = "noisy",
        reads: Reads = "all",
        draw: Literal["chunk", "clip"] = "chunk",
        clean_probability: float = 0.0,
        context_frames: int = 0,
        off_schedule: Literal["refuse", "train"] = "refuse",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        if not 0.0 <= clean_probability < 1.0:
            raise ValueError(f"`clean_probability` must be in [0, 1), got {clean_probability}")
        if clean_probability and context == "clean":
            raise ValueError(
                f"`clean_probability` {clean_probability} has no use with `context: clean`, whose past "
                "is always clean; leave it at 0"
            )
        if context_frames < 0:
            raise ValueError(f"`context_frames` must be 0 or more, got {context_frames}")
        if context_frames:
            self.generator.schedule.chunks_of(context_frames)
        self.context: Context = context
        self.reads: Reads = reads
        self.draw: Literal["chunk", "clip"] = draw
        self.clean_probability = clean_probability
        self.context_frames = context_frames
        self.off_schedule: Literal["refuse", "train"] = off_schedule

    def errors(  # type: ignore[override]
        self, streamer: Streamer, batch: TrajectoryBatch, draws: Draws
    ) -> dict[str, Tensor]:
        """Return the mean squared error of the clean end, over the frames that carry loss.

        Args:
            streamer: Its network is evaluated.
            batch: Trajectories.
            draws: Where random numbers come from.
        """
        states = batch["latents"].float()
        target = states[:, -1]
        num_frames = target.shape[1]
        self._check(batch)
        chunks = streamer.schedule.chunks_of(num_frames)
        choices = self.choices(batch["sigmas"][0].tolist(), len(chunks))
        picked = self._pick(choices, chunks, target.shape[0], draws.rank_rng)
        index_BF, timestep_BF, sigma_BF = (part.to(target.device) for part in picked)
        rows = torch.arange(target.shape[0], device=target.device)[:, None]
        noisy = states[rows, index_BF, torch.arange(num_frames, device=target.device)]
        velocity = masked_velocity(
            streamer.backbone,
            self.encode_text(batch["prompts"]),
            causal_mask(streamer, num_frames, self.context, self.reads),
            batch["context"].float()
            if self.context == "clean" and batch["context"] is not None
            else None,
        )
        x0 = velocity_to_x0(velocity(noisy, timestep_BF), noisy, sigma_BF)
        error_BF = (x0.float() - target).square().mean(dim=(2, 3, 4))
        loss_BF = (sigma_BF > 0.0).float()
        return {"loss": (error_BF * loss_BF).sum() / loss_BF.sum().clamp(min=1.0)}

    def choices(self, sigmas: list[float], num_chunks: int) -> list[list[Choice]]:
        """Return the states each chunk may start from: those at its own passes' noise levels.

        Args:
            sigmas: The trajectories' levels, the last 0.
            num_chunks: Chunks of a clip; chunk 0 may have steps of its own.

        Raises:
            ValueError: If the schedule has a level that the trajectories lack.
        """
        if self.off_schedule == "train":
            every = [Choice(i, s * NUM_TIMESTEPS, s) for i, s in enumerate(sigmas[:-1])]
            return [every] * num_chunks
        found = []
        for chunk in range(num_chunks):
            matched = []
            for one in denoise_passes(self.generator.schedule.passes(chunk)):
                gaps = [abs(sigma - one.sigma) for sigma in sigmas[:-1]]
                nearest = gaps.index(min(gaps))
                if gaps[nearest] > SAME_SIGMA:
                    have = ", ".join(f"{sigma * NUM_TIMESTEPS:.1f}" for sigma in sigmas[:-1])
                    raise ValueError(
                        f"the schedule denoises at timestep {one.timestep:.1f}, the trajectories have "
                        f"{have}; make trajectories for this schedule, change its steps or shift, or "
                        "set `model.off_schedule` to train"
                    )
                matched.append(Choice(nearest, one.timestep, sigmas[nearest]))
            found.append(matched)
        return found

    def _pick(
        self,
        choices: list[list[Choice]],
        chunks: tuple[int, ...],
        rows: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw every chunk's state: its index, timestep and noise level, ``[B, F]`` each."""
        groups = len(chunks) if self.draw == "chunk" else 1
        drawn = torch.rand(rows, groups, generator=generator, dtype=torch.float32).expand(
            -1, len(chunks)
        )
        clean = (
            torch.rand(rows, len(chunks), generator=generator, dtype=torch.float32)
            < self.clean_probability
        )
        given = (
            len(self.generator.schedule.chunks_of(self.context_frames))
            if self.context_frames
            else 0
        )
        clean[:, :given] = True
        columns = []
        for chunk, allowed in enumerate(choices):
            table = torch.tensor([*allowed, Choice(-1, 0.0, 0.0)], dtype=torch.float64)
            index = (drawn[:, chunk] * len(allowed)).long().masked_fill(clean[:, chunk], -1)
            columns.append(table[index])
        picked = torch.stack(columns, dim=1).repeat_interleave(torch.tensor(chunks), dim=1)
        return picked[..., 0].long(), picked[..., 1].float(), picked[..., 2].float()

    def _check(self, batch: TrajectoryBatch) -> None:
        """Refuse trajectories of another kind than this stage is set to.

        Raises:
            ValueError: Naming the setting.
        """
        states, given = batch["latents"], self.context_frames
        if self.context == "clean" and batch["context"] is None:
            raise ValueError(
                "`context: clean` needs the real clips, which these trajectories lack; make them with "
                "`teacher: teacher_forcing`, or set `model.context` to noisy"
            )
        if self.context == "noisy" and batch["context"] is not None:
            raise ValueError(
                "these trajectories are of a teacher that saw a clean past; set `model.context` to clean"
            )
        generated_chunks(self.generator.schedule, states.shape[2], given)
        if given and not torch.equal(states[:, 0, :given], states[:, -1, :given]):
            raise ValueError(
                f"`context_frames` is {given}, but the trajectories' first frames were not given to the "
                "teacher; set it to 0, or make them with `context_frames`"
            )

    def example_batch(self, prompts: list[str], num_frames: int) -> TrajectoryBatch:  # type: ignore[override]
        """Return trajectories of every noise level of the schedule."""
        sigmas = torch.tensor([*stream_sigmas(self.generator.schedule), 0.0])
        clip = (num_frames, *self.codec.latent_shape(*self.frame_size))
        return TrajectoryBatch(
            latents=torch.zeros(len(prompts), len(sigmas), *clip),
            sigmas=sigmas.expand(len(prompts), -1),
            context=torch.zeros(len(prompts), *clip) if self.context == "clean" else None,
            prompts=prompts,
        )

    def predict_step(  # type: ignore[override]
        self, batch: TrajectoryBatch | PromptBatch, batch_idx: int
    ) -> object:
        """Stream the batch's prompts, as long as its clips; see ``StreamModule.predict_step``."""
        if "num_chunks" in batch:
            return super().predict_step(cast("PromptBatch", batch), batch_idx)
        frames = self.codec.pixel_frames(batch["latents"].shape[2])
        video = torch.empty(len(batch["prompts"]), frames, 0)
        return super().predict_step(VideoBatch(video=video, prompts=batch["prompts"]), batch_idx)
