"""Consistency distillation of a causal generator (arXiv 2303.01469, 2310.14189; Causal Forcing++)."""

# Shapes: B batch, G chunks, F frames, C channels, H W height / width (of pixels in video_*, of latents elsewhere), S text tokens, D text width.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_adastate.backbones import Backbone
from lightning_adastate.flow import NUM_TIMESTEPS, add_noise, velocity_to_x0
from lightning_adastate.losses import Velocity
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.training.networks import build_network
from lightning_adastate.training.one_loss import Draws, OneLoss
from lightning_adastate.training.parallel import (
    Reads,
    causal_mask,
    guided,
    masked_velocity,
    ode_sigmas,
    stream_sigmas,
)
from lightning_adastate.types import VideoBatch

HUBER = 0.00054
"""Constant of the pseudo-Huber distance per root of dimension (arXiv 2310.14189, section 3.3)."""

Distance = Literal["l2", "pseudo_huber"]


class ConsistencyDistillation(OneLoss):
    """Learn to predict alike at neighbouring points of the teacher's ODE, and so its end.

    A real clip is noised to a level of a grid; the teacher, which sees the clip's clean past, makes one Euler
    step to the next level; the generator's x0 before the step is pulled to its average's x0 behind it. All chunks
    of a clip in one forward, under teacher forcing. Needs no stored trajectories. The schedule's noise levels are
    put into the grid; the anchor is not shown in this stage.

    Args:
        backbone: The generator's network; starts from the teacher's weights.
        teacher: Builds the frozen teacher, for training only; ``None`` copies the generator's network. It is an
            autoregressive model trained with teacher forcing.
        teacher_weights: File of the teacher's weights; ``None`` leaves them as built.
        guidance: The teacher's: ``negative + guidance (positive - negative)``; 1 is none.
        negative_prompt: What guidance points away from; needed if there is guidance.
        steps: Levels of the grid, before those of the schedule are put in.
        shift: Timestep shift of the grid.
        draw: Draw a level for every chunk, or one for a whole clip (public Causal-Forcing code).
        distance: ``l2`` is the mean squared error. ``pseudo_huber`` is less moved by outliers; it is taken per frame.
        interval_weighting: ``inverse`` weighs a pair of levels by one over their distance (arXiv 2310.14189);
            ``uniform`` weighs all alike.
        reads: How much of the past a chunk sees: what the cache keeps, or everything (the paper, 21 frames).
        context_frames: First frames that carry no loss, whole chunks: always given when this model streams.
        ema_decay: Decay of the average that makes the targets, and that streams afterwards; ``None`` takes the
            network itself for the targets (arXiv 2310.14189).
        **kwargs: Those of ``ManualModule``.

    Raises:
        ValueError: If a number is out of range, or guidance lacks its prompt.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        teacher: Callable[[], Backbone] | None = None,
        teacher_weights: str | None = None,
        guidance: float = 3.0,
        negative_prompt: str | None = None,
        steps: int = 48,
        shift: float = 5.0,
        draw: Literal["chunk", "clip"] = "chunk",
        distance: Distance = "l2",
        interval_weighting: Literal["uniform", "inverse"] = "uniform",
        reads: Reads = "all",
        context_frames: int = 0,
        ema_decay: float | None = 0.99,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, ema_decay=ema_decay, **kwargs)
        if steps < 1:
            raise ValueError(f"`steps` must be 1 or more, got {steps}")
        if shift <= 0.0:
            raise ValueError(f"`shift` must be positive, got {shift}")
        if guidance != 1.0 and not negative_prompt:
            raise ValueError(
                f"`guidance` {guidance} needs a `negative_prompt`; give one or set it to 1"
            )
        if context_frames < 0:
            raise ValueError(f"`context_frames` must be 0 or more, got {context_frames}")
        if context_frames:
            self.generator.schedule.chunks_of(context_frames)
        self.build_teacher = teacher
        self.teacher_weights = teacher_weights
        self.teacher: Backbone | None = None
        self.guidance = guidance
        self.negative_prompt = negative_prompt
        self.sigmas = ode_sigmas(steps, shift, stream_sigmas(self.generator.schedule))
        self.draw: Literal["chunk", "clip"] = draw
        self.distance: Distance = distance
        self.interval_weighting: Literal["uniform", "inverse"] = interval_weighting
        self.reads: Reads = reads
        self.context_frames = context_frames

    def setup(self, stage: str) -> None:
        """Build the teacher. Streaming does without."""
        if stage not in ("fit", "validate", "test") or self.teacher is not None:
            return
        backbone = self.generator.backbone
        self.teacher = build_network(self.build_teacher, backbone, self.teacher_weights)
        self.teacher.eval().requires_grad_(requires_grad=False)

    def errors(self, streamer: Streamer, batch: VideoBatch, draws: Draws) -> dict[str, Tensor]:
        """Return the distance of the two predictions for a batch of clips."""
        return self.clip_errors(streamer, *self.encode_batch(batch), draws)

    @torch.no_grad()
    def encode_batch(self, batch: VideoBatch) -> tuple[Tensor, Tensor]:
        """Return clean latents ``[B, F, C, H, W]`` and text embeddings."""
        return self.codec.encode(batch["video"].float()), self.encode_text(batch["prompts"])

    def clip_errors(
        self, streamer: Streamer, latents_BFCHW: Tensor, text_BSD: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """Return the distance of the two predictions, over the frames that carry loss.

        Args:
            streamer: Its network learns.
            latents_BFCHW: Clean latents of real clips.
            text_BSD: Their prompts' embeddings.
            draws: Where random numbers come from.
        """
        rows, num_frames = latents_BFCHW.shape[:2]
        device = latents_BFCHW.device
        now_BF, after_BF = (
            part.to(device)
            for part in self._draw_pairs(
                rows, streamer.schedule.chunks_of(num_frames), draws.rank_rng
            )
        )
        noise = torch.randn(latents_BFCHW.shape, generator=draws.rank_rng, dtype=torch.float32).to(
            device
        )
        before = add_noise(latents_BFCHW, noise, now_BF)
        mask = causal_mask(streamer, num_frames, "clean", self.reads)
        student = masked_velocity(streamer.backbone, text_BSD, mask, latents_BFCHW)
        with torch.no_grad():
            teacher = self._teacher(text_BSD, mask, latents_BFCHW)
            step_BF = (after_BF - now_BF)[:, :, None, None, None]
            behind = before + step_BF * teacher(before, now_BF * NUM_TIMESTEPS)
            average = masked_velocity(self.streamer.backbone, text_BSD, mask, latents_BFCHW)
            target = predict_x0(average, behind, after_BF)
        error_BF = distances(predict_x0(student, before, now_BF), target, self.distance)
        weights_BF = (torch.arange(num_frames, device=device) >= self.context_frames).float()
        weights_BF = weights_BF.expand(rows, -1)
        count = weights_BF.sum().clamp(min=1.0)
        if self.interval_weighting == "inverse":
            weights_BF = weights_BF / (now_BF - after_BF)
        return {"loss": (error_BF * weights_BF).sum() / count}

    def _draw_pairs(
        self, rows: int, chunks: tuple[int, ...], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw a level of the grid for every chunk; return it and the next one, ``[B, F]`` each."""
        levels = torch.tensor(self.sigmas, dtype=torch.float32)
        groups = len(chunks) if self.draw == "chunk" else 1
        index = torch.randint(0, len(levels) - 1, (rows, groups), generator=generator)
        index = index.expand(-1, len(chunks)).repeat_interleave(torch.tensor(chunks), dim=1)
        return levels[index], levels[index + 1]

    def _teacher(self, text_BSD: Tensor, mask_FF: Tensor, clean_BFCHW: Tensor) -> Velocity:
        """Bind prompts and the clean past to the teacher, with guidance."""
        assert self.teacher is not None
        positive = masked_velocity(self.teacher, text_BSD, mask_FF, clean_BFCHW)
        if self.guidance == 1.0 or self.negative_prompt is None:
            return positive
        other = self.encode_text([self.negative_prompt]).expand_as(text_BSD)
        negative = masked_velocity(self.teacher, other, mask_FF, clean_BFCHW)
        return guided(positive, negative, self.guidance)


def predict_x0(velocity: Velocity, latents_BFCHW: Tensor, sigma_BF: Tensor) -> Tensor:
    """Return the network's clean frames. At level 0 these are ``latents_BFCHW``: the boundary condition."""
    predicted = velocity(latents_BFCHW, sigma_BF * NUM_TIMESTEPS)
    return velocity_to_x0(predicted, latents_BFCHW, sigma_BF)


def distances(ours_BFCHW: Tensor, target_BFCHW: Tensor, kind: Distance) -> Tensor:
    """Return the distance of every frame, ``[B, F]``, in float32.

    The pseudo-Huber distance ``sqrt(|x - y|^2 + c^2) - c`` with c = 0.00054 sqrt(d) is divided by sqrt(d).
    """
    square = (ours_BFCHW.float() - target_BFCHW.float()).square().mean(dim=(2, 3, 4))
    return square if kind == "l2" else (square + HUBER**2).sqrt() - HUBER
