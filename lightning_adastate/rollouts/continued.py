"""Continued rollouts: one sequence is rolled on from batch to batch (LongLive's streaming long tuning)."""

# Shapes: B batch, F frames, C channels, H W latent height / width, P prompts, S text tokens, D text width.

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from lightning_adastate.codecs.base import CodecState
from lightning_adastate.rollouts.base import (
    Request,
    Rollout,
    Rollouts,
    check_window,
    generated_chunks,
)
from lightning_adastate.rollouts.recorder import RolloutRecorder, decode, image_latent
from lightning_adastate.streaming.events import SwitchPolicy, prompt_switch
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import StreamState


class ContinuedRollouts(Rollouts):
    """Go on where the last batch stopped, and score the newest frames only.

    The first batch of a sequence rolls out ``num_frames``. Each later one puts as many new frames behind
    ``old_frames`` of the last, whose first latent is made an image latent and which carry no loss. Cache and
    anchor go from batch to batch without a graph. At ``max_frames`` the next sequence begins. The prompts
    of the batches in between are not used, but for one: where the prompt switches. Generator and critic
    roll the same sequence on.

    Args:
        max_frames: Latent frames of a sequence (LongLive: 240).
        old_frames: Frames repeated from the last batch, whole chunks (LongLive: 3).
        old_frames_are: ``noised`` shows them to the networks at the noise level of the others (public
            code), ``given`` clean.
        switch: What happens to the cache when the prompt becomes that of the batch in hand, once per
            sequence, at the beginning of one of its later batches, all equally likely; ``None`` never
            switches.
        switch_frames: Clean latents that a switch encodes anew (LongLive: 9).

    Raises:
        ValueError: If there are no old frames, or nothing to encode anew.
    """

    num_kinds = 3

    def __init__(
        self,
        max_frames: int,
        *,
        old_frames: int = 3,
        old_frames_are: Literal["noised", "given"] = "noised",
        switch: SwitchPolicy | None = None,
        switch_frames: int = 9,
    ) -> None:
        if old_frames < 1:
            raise ValueError(f"`old_frames` must be 1 or more, got {old_frames}")
        if switch is not None:
            prompt_switch(1, 1, switch, frames=switch_frames)
        self.max_frames = max_frames
        self.old_frames = old_frames
        self.old_frames_are: Literal["noised", "given"] = old_frames_are
        self.switch: SwitchPolicy | None = switch
        self.switch_frames = switch_frames

    @property
    def is_persistent(self) -> bool:
        """Whether a rollout goes on from the last one."""
        return True

    def check(self, streamer: Streamer, num_frames: int, context_frames: int) -> None:
        """Refuse lengths that are no whole chunks, or a window that cannot give the old frames back."""
        super().check(streamer, num_frames, context_frames)
        schedule = streamer.schedule
        check_window(schedule, num_frames, self.max_frames, "learned")
        if self.old_frames % schedule.chunk_frames or self.old_frames >= num_frames:
            raise ValueError(
                f"`old_frames` must be whole chunks of {schedule.chunk_frames} and fewer than "
                f"`num_frames` {num_frames}, got {self.old_frames}"
            )
        if self.old_frames > streamer.cache.max_frames:
            raise ValueError(
                f"`old_frames` {self.old_frames} is more than the cache's window of "
                f"{streamer.cache.max_frames} frames"
            )

    def make(self, request: Request) -> Rollout:
        """Roll the sequence on, or begin the next one."""
        state, new = request.persistent_state, request.num_frames - self.old_frames
        # A smaller last batch of an epoch has other rows than the sequence.
        if state is None or state.stream_ids != request.stream_ids:
            return self._begin(request)
        if state.first_frame + new > self.max_frames:
            return self._begin(request)
        return self._go_on(request, self._switched(request, state))

    def _begin(self, request: Request) -> Rollout:
        recorder = RolloutRecorder(request)
        recorder.prefill(request.clip_BFCHW)
        schedule = request.streamer.schedule
        recorder.learn(generated_chunks(schedule, request.num_frames, request.context_frames))
        return recorder.rollout(
            persistent_state=self._persistent(recorder, request.codec.empty(), recorder.clean())
        )

    def _go_on(self, request: Request, state: StreamState) -> Rollout:
        assert state.recent_BFCHW is not None
        old, codec = state.recent_BFCHW[:, -self.old_frames :], request.codec
        image, memory = image_latent(codec, old[:, :1], state.codec)
        recorder = RolloutRecorder(request, state)
        recorder.put(torch.cat([image, old[:, 1:]], dim=1))
        recorder.learn(
            (request.num_frames - self.old_frames) // request.streamer.schedule.chunk_frames
        )
        made = recorder.rollout(
            persistent_state=self._persistent(recorder, memory, recorder.clean()[:, 1:])
        )
        if self.old_frames_are == "given":
            return made._replace(given_frames=self.old_frames)
        return made._replace(unscored_frames=self.old_frames)

    def _persistent(
        self, recorder: RolloutRecorder, memory: CodecState, latents_BFCHW: Tensor
    ) -> StreamState:
        """Return the stream without a graph, with the decoder's memory before the next old frames."""
        if latents_BFCHW.shape[1] > self.old_frames:
            _, memory = decode(
                recorder.request.codec, latents_BFCHW[:, : -self.old_frames], memory
            )
        return replace(detached(recorder.state), codec=memory)

    def _switched(self, request: Request, state: StreamState) -> StreamState:
        """Put the switch on the timeline, with the prompts of the batch in hand, where it is its turn."""
        new = request.num_frames - self.old_frames
        batches = (self.max_frames - request.num_frames) // new
        batch = (state.first_frame - request.num_frames) // new
        # From the sequence's own seed, so that it needs not be carried and is the same on all ranks.
        generator = torch.Generator().manual_seed(state.seed)
        if self.switch is None or batch != int(
            torch.randint(0, batches, (1,), generator=generator)
        ):
            return state
        event = prompt_switch(state.chunk, 1, self.switch, frames=self.switch_frames)
        texts = torch.stack([state.texts_PBSD[state.prompt], request.text_BSD])
        return replace(state, texts_PBSD=texts, prompt=0, timeline=(event,))


def detached(state: StreamState) -> StreamState:
    """Return a stream that holds no graph and no text keys and values, which belong to the weights."""
    return replace(
        state,
        blocks=tuple(block.detach() for block in state.blocks),
        anchor={name: kv.detach() for name, kv in state.anchor.items()},
        history=tuple(block.detach() for block in state.history),
        text_kv=None,
    )
