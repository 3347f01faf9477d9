"""Self-forcing distillation: the generator learns on its own streams (Self-Forcing, AdaState)."""

# Shapes: B batch, F frames, C channels, H W height / width (of pixels in video_*, of latents elsewhere), S text tokens, D text width.

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from lightning_adastate.backbones import Backbone
from lightning_adastate.callbacks.loss_weighting import apply_frame_weights
from lightning_adastate.losses import CriticLoss, GeneratorLoss, Networks
from lightning_adastate.rollouts import FreshRollouts, Request, Rollout, Rollouts
from lightning_adastate.rollouts.base import denoise_count
from lightning_adastate.schedules import Schedule
from lightning_adastate.streaming.streamer import KVGradient
from lightning_adastate.training.checkpoint_weights import fill_network
from lightning_adastate.training.chunkwise import Backward, check_gradients, chunk_losses
from lightning_adastate.training.manual import check_least
from lightning_adastate.training.networks import (
    TeacherDType,
    TeacherPlacement,
    bound,
    build_network,
    place,
    velocity_of,
)
from lightning_adastate.training.optimization import build_optimizer
from lightning_adastate.training.persistent import PersistentStreamModule
from lightning_adastate.training.randomness import fold_seed, generator_of, stream_ids_of
from lightning_adastate.training.trainers import trainer_of
from lightning_adastate.training.turns import CriticPrompts, Turns
from lightning_adastate.types import VideoBatch


class SelfForcing(PersistentStreamModule):
    """Distil a bidirectional teacher into a few-step stream, on the stream's own output.

    Each batch: every ``generator_interval``-th one rolls out ``num_frames`` frames with the very step that
    streaming uses, leaving all chunks at one random denoise pass, the only one with a graph, and steps the
    generator along the loss; then the critic learns flow matching on a rollout. ``global_step`` counts
    generator steps, and the average moves at them. ``rollouts`` names other ways to come by the video; validation
    always scores complete fresh ones.

    Args:
        backbone: The generator's network.
        loss: The generator's loss.
        critic_loss: The critic's loss. Its shift and timesteps should be ``loss``'s own.
        teacher: Builds the frozen teacher, for training only; ``None`` copies the generator's network.
        teacher_weights: File of the teacher's weights; ``None`` leaves them as built.
        teacher_dtype: What the teacher's weights are kept in, whatever the trainer's precision.
        teacher_offload: Keep it in the CPU's memory between scorings, instead of on the device.
        critic: Builds the critic, for training only; ``None`` copies the teacher.
        critic_weights: File of the critic's first weights; ``None`` leaves them as built.
        negative_prompt: What guidance points away from; needed if ``loss`` has guidance.
        num_frames: Latent frames of a rollout, given ones included.
        context_frames: First frames taken from the batch's videos: whole chunks, clean for all networks,
            without loss. 0 generates from text alone.
        generator_interval: The generator learns in every n-th optimiser step, the critic in all.
        critic_steps: Critic steps per batch, all on one rollout, each with its own noise.
        critic_rollout: ``fresh`` rolls out again for the critic, after the generator's step; ``shared``
            reuses the generator's rollout where there is one.
        critic_prompts: ``same`` lets the critic learn on the generator's batch too. ``fresh`` leaves that
            batch to the generator, and the critic has the next ones (public Self-Forcing): a generator step
            then takes one batch more.
        critic_warmup: In the first so many optimiser steps only the critic learns.
        exit_step: ``random`` leaves at any denoise pass, ``last`` always at the last.
        kv_gradient: What cached keys and values pass back between chunks: ``detach`` nothing,
            ``straight_through`` as public code, ``state`` and ``all`` back-propagate.
        rollouts: How the video comes to be that is scored; ``None`` is ``FreshRollouts``.
        backward: ``whole`` keeps the graph of all chunks; ``chunks`` rolls out without one, then makes each
            chunk again and back-propagates it with its part of the loss's gradient: the same gradients in
            the memory of one chunk, for up to twice the rollout's time.
        critic_optimizer: Makes the critic's optimiser. ``optimizer`` is the generator's, anchor parameters included.
        critic_lr_scheduler: Makes the critic's learning rate; it counts all optimiser steps, those of
            ``critic_warmup`` included.
        **kwargs: Those of ``ManualModule``.

    Raises:
        ValueError: If frames are no whole chunks, numbers are out of range, guidance lacks its prompt, or
            something flows between chunks that are to be back-propagated one by one.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        loss: GeneratorLoss,
        critic_loss: CriticLoss,
        teacher: Callable[[], Backbone] | None = None,
        teacher_weights: str | None = None,
        teacher_dtype: TeacherDType = "float32",
        teacher_offload: bool = False,
        critic: Callable[[], Backbone] | None = None,
        critic_weights: str | None = None,
        negative_prompt: str | None = None,
        num_frames: int = 21,
        context_frames: int = 0,
        generator_interval: int = 5,
        critic_steps: int = 1,
        critic_rollout: Literal["fresh", "shared"] = "fresh",
        critic_prompts: CriticPrompts = "same",
        critic_warmup: int = 0,
        exit_step: Literal["random", "last"] = "random",
        kv_gradient: KVGradient = "detach",
        rollouts: Rollouts | None = None,
        backward: Backward = "whole",
        critic_optimizer: OptimizerCallable,
        critic_lr_scheduler: LRSchedulerCallable | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        check_least("generator_interval", generator_interval, 1)
        check_least("critic_steps", critic_steps, 1)
        check_least("critic_warmup", critic_warmup, 0)
        if critic_steps > 1 and self.accumulate > 1:
            raise ValueError(
                f"`critic_steps` {critic_steps} cannot go with `accumulate` {self.accumulate}: "
                "raise `generator_interval` instead"
            )
        if critic_prompts == "fresh" and critic_rollout == "shared":
            raise ValueError(
                "`critic_rollout` 'shared' hands the critic the generator's own prompts: it needs "
                "`critic_prompts` 'same', got 'fresh'"
            )
        if loss.uses_negative and not negative_prompt:
            raise ValueError(
                "guidance needs a `negative_prompt`; give one or set the loss's `guidance` to 0"
            )
        self.rollouts = FreshRollouts() if rollouts is None else rollouts
        self.rollouts.check(self.generator, num_frames, context_frames)
        check_gradients(backward, kv_gradient, self.generator.anchor, self.generator.schedule)
        self.loss = loss
        self.critic_loss = critic_loss
        self.build_teacher = teacher
        self.teacher_weights = teacher_weights
        self.teacher_dtype: TeacherDType = teacher_dtype
        self.teacher_offload = teacher_offload
        self.build_critic = critic
        self.critic_weights = critic_weights
        self.teacher_placement: TeacherPlacement | None = None
        self.critic: Backbone | None = None
        self.negative_prompt = negative_prompt
        self.num_frames = num_frames
        self.context_frames = context_frames
        self.turns = Turns(generator_interval, critic_warmup, self.accumulate, critic_prompts)
        self.critic_steps = critic_steps
        self.critic_rollout: Literal["fresh", "shared"] = critic_rollout
        self.exit_step: Literal["random", "last"] = exit_step
        self.kv_gradient: KVGradient = kv_gradient
        self.backward_by: Backward = backward
        self.build_critic_optimizer = critic_optimizer
        self.build_critic_lr_scheduler = critic_lr_scheduler

    def setup(self, stage: str) -> None:
        """Build teacher and critic. Streaming needs neither, so only what has losses has them."""
        if stage not in ("fit", "validate", "test") or self.teacher_placement is not None:
            return
        backbone = self.generator.backbone
        # A critic without a builder is a copy of the teacher, from before that is rounded.
        kind = None if self.build_critic is None else getattr(torch, self.teacher_dtype)
        teacher = build_network(self.build_teacher, backbone, self.teacher_weights, dtype=kind)
        wide = next(backbone.parameters()).dtype
        self.critic = build_network(self.build_critic, teacher, self.critic_weights, dtype=wide)
        self.critic.requires_grad_(requires_grad=True)
        fill_network(self.critic, self.waiting_weights, "critic")
        sharded = self.device_mesh is not None
        self.teacher_placement = place(
            teacher, self.teacher_dtype, offload=self.teacher_offload, sharded=sharded
        )

    @property
    def teacher(self) -> Backbone | None:
        """Return the teacher, wherever it is."""
        return None if self.teacher_placement is None else self.teacher_placement.network

    @property
    def is_persistent(self) -> bool:
        """Whether a rollout goes on from the last one."""
        return self.rollouts.is_persistent

    @property
    def busiest_batches(self) -> Sequence[int]:
        """Name batches that end a step of the generator or the first of the critic behind it, as often as rollouts differ."""
        return self.turns.busiest_batches(self.rollouts.num_kinds)

    def example_batch(self, prompts: list[str], num_frames: int) -> VideoBatch:
        """Return a batch with as many frames as the rollouts take of the clips."""
        del num_frames
        count = self.rollouts.clip_frames(self.num_frames, self.context_frames)
        return super().example_batch(prompts, count)

    # -- one batch ------------------------------------------------------------------------------

    def training_step(self, batch: VideoBatch, batch_idx: int) -> None:
        """Let the generator learn where it is its turn, then the critic."""
        del batch_idx
        text_BSD, clip = self.encode_batch(batch)
        turn = self.turns.of(self.batches_seen)
        made = self.learn_generator(text_BSD, clip) if turn.generator else None
        if turn.critic:
            self.learn_critic(text_BSD, clip, made)
        self.log_step()
        self.batches_seen += 1

    def learn_generator(self, text_BSD: Tensor, clip_BFCHW: Tensor | None) -> Rollout:
        """Roll out with gradients, score, back-propagate, and step if the optimiser step is whole."""
        chunkwise = self.backward_by == "chunks"
        with torch.set_grad_enabled(not chunkwise):
            rollout = self.rollout(text_BSD, clip_BFCHW, "generator", keep_recomputes=chunkwise)
        video = rollout.video_BFCHW.detach().requires_grad_() if chunkwise else rollout.video_BFCHW
        draw = self.loss.draw(video, self.generator_for("generator loss"))
        given, weigh = (
            rollout.given_frames,
            partial(self.reweight, unscored_frames=rollout.unscored_frames),
        )
        with self.networks(rollout.text_BSD) as networks:
            out = self.loss(video, networks, draw, given_frames=given, reweight=weigh)
        loss = out.loss / self.accumulate
        for part in chunk_losses(loss, video, rollout) if chunkwise else [loss]:
            self.manual_backward(part)
        self.log("train/loss_generator", out.loss.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in out.logs.items()})
        if self.completes_step:
            self.log("train/grad_norm_generator", self.step_generator())
        return rollout._replace(recomputes=())  # they hold every chunk's cache

    def learn_critic(
        self, text_BSD: Tensor, clip_BFCHW: Tensor | None, rollout: Rollout | None
    ) -> None:
        """Let the critic follow the generator, on the rollout it is handed or on a new one."""
        if rollout is None or self.critic_rollout == "fresh":
            with torch.no_grad():
                rollout = self.rollout(text_BSD, clip_BFCHW, "critic")
        video, given = rollout.video_BFCHW.detach(), rollout.given_frames
        assert self.critic is not None
        optimizer = self.plain_optimizer(1)
        for index in range(self.critic_steps):
            draw = self.critic_loss.draw(video, self.generator_for(f"critic loss {index}"))
            critic = velocity_of(self.critic, rollout.text_BSD)
            loss = self.critic_loss(video, critic, draw, given_frames=given).loss
            self.manual_backward(loss / self.accumulate)
            if self.completes_step:
                norm = self.clip(optimizer)
                optimizer.step()
                optimizer.zero_grad()
                self.log("train/grad_norm_critic", norm)
        if self.completes_step:
            self.step_schedule(1)
        self.log("train/loss_critic", loss.detach(), prog_bar=True)
        if rollout.exit_step is not None:
            self.log(f"train/loss_critic_exit{rollout.exit_step}", loss.detach())

    def rollout(
        self,
        text_BSD: Tensor,
        clip_BFCHW: Tensor | None,
        phase: str,
        *,
        keep_recomputes: bool = False,
    ) -> Rollout:
        """Make a video to score, and keep what the next one goes on from.

        Its noise is a pure function of (seed, batches seen, phase) and of the row's identity over all
        ranks, so a resumed run repeats it and no two ranks share it.

        Args:
            text_BSD: Text embeddings; the generator's text keys and values are part of the graph.
            clip_BFCHW: Latents of the clips' first frames, as many as are needed, or ``None``.
            phase: What it is for.
            keep_recomputes: Also say how its frames are made again.
        """
        request = replace(
            self.request(text_BSD, clip_BFCHW, phase),
            exit_of=partial(self.draw_exit_step, phase),
            keep_recomputes=keep_recomputes,
            persistent_state=self.persistent_state,
        )
        made = self.rollouts.make(request)
        self.persistent_state = made.persistent_state
        return made

    def request(self, text_BSD: Tensor, clip_BFCHW: Tensor | None, phase: str) -> Request:
        """Return the request for complete chunks; ``phase`` names what it is for."""
        return Request(
            streamer=self.generator,
            codec=self.codec,
            text_BSD=text_BSD,
            clip_BFCHW=clip_BFCHW,
            num_frames=self.num_frames,
            context_frames=self.context_frames,
            latent_shape=self.codec.latent_shape(*self.frame_size),
            seed=fold_seed(self.seed, self.batches_seen, phase),
            stream_ids=stream_ids_of(self.global_rank, len(text_BSD)),
            rank_rng=lambda what: self.generator_for(f"{phase} {what}"),
            global_rng=lambda what: self.generator_for(f"{phase} {what}", all_ranks_alike=True),
            exit_of=None,
            kv_gradient=self.kv_gradient,
        )

    def draw_exit_step(
        self, phase: str, schedule: Schedule, chunk: int, given_chunks: int = 0
    ) -> int:
        """Draw the pass at which chunks like ``chunk`` are left: one for all rows, chunks and ranks."""
        last = denoise_count(schedule, chunk, given_chunks) - 1
        if self.exit_step == "last":
            return last
        generator = self.generator_for(f"{phase} exit {min(chunk, 1)}", all_ranks_alike=True)
        drawn = int(torch.randint(0, last + 1, (1,), generator=generator))
        # The seed already makes it the same everywhere; a different one would silently ruin DDP.
        return int(self.trainer.strategy.broadcast(drawn))

    def networks(self, text_BSD: Tensor) -> AbstractContextManager[Networks]:
        """Bind teacher and critic to the prompts, while the teacher is on the device."""
        assert self.teacher_placement is not None
        assert self.critic is not None
        negative = None
        if self.loss.uses_negative and self.negative_prompt is not None:
            negative = self.encode_text([self.negative_prompt]).expand_as(text_BSD)
        return bound(self.teacher_placement, self.critic, text_BSD, negative)

    @torch.no_grad()
    def encode_batch(self, batch: VideoBatch) -> tuple[Tensor, Tensor | None]:
        """Return the prompts' embeddings and the latents of the clips' first frames, if any are needed."""
        text_BSD = self.encode_text(batch["prompts"])
        count = self.rollouts.clip_frames(self.num_frames, self.context_frames)
        if not count:
            return text_BSD, None
        frames = self.codec.pixel_frames(count)
        video = batch["video"]
        if video.shape[1] < frames:
            raise ValueError(
                f"{type(self.rollouts).__name__} with `num_frames` {self.num_frames} and "
                f"`context_frames` {self.context_frames} needs clips of {frames} frames or more, "
                f"got {video.shape[1]}"
            )
        return text_BSD, self.codec.encode(video[:, :frames].float())

    def reweight(
        self, weights_BF: Tensor, video_BFCHW: Tensor, *, unscored_frames: int = 0
    ) -> Tensor:
        """Hand the frame weights to the callbacks; unscored frames get none."""
        trainer = trainer_of(self)
        callbacks = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]
        return apply_frame_weights(
            self, callbacks, weights_BF, video_BFCHW, unscored_frames=unscored_frames
        )

    # -- validation, optimisers -------------------------------------------------------------------

    def scores(self, batch: VideoBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return both losses on complete rollouts of what will be used for streaming."""
        text_BSD, clip = self.encode_batch(batch)
        given = self.context_frames
        phase = f"validation {batch_idx}"
        generator = generator_of(self.seed, self.global_rank, phase)
        first = clip[:, :given] if given and clip is not None else None
        request = self.request(text_BSD, first, phase)
        video = FreshRollouts().make(replace(request, streamer=self.streamer)).video_BFCHW
        draw = self.loss.draw(video, generator)
        with self.networks(text_BSD) as networks:
            score = self.loss(video, networks, draw, given_frames=given).loss
        critic = self.critic_loss(video, networks.critic, draw, given_frames=given).loss
        return {"loss_generator": score, "loss_critic": critic}

    def configure_optimizers(self) -> Sequence[OptimizerLRSchedulerConfig]:
        """Return the generator's optimiser, which moves ``global_step``, and the critic's."""
        assert self.critic is not None
        return [
            build_optimizer(
                self.generator.parameters(), self.build_optimizer, self.build_lr_scheduler
            ),
            build_optimizer(
                self.critic.parameters(),
                self.build_critic_optimizer,
                self.build_critic_lr_scheduler,
            ),
        ]
