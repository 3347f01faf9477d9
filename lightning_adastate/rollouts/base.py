"""The contract of a rollout: how the video comes to be that the losses score."""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_adastate.codecs import Codec
from lightning_adastate.schedules import Schedule
from lightning_adastate.schedules.base import denoise_passes
from lightning_adastate.streaming.streamer import KVGradient, Streamer
from lightning_adastate.types import StreamState

FirstChunk = Literal["learned", "noised", "given"]
"""What becomes of the first chunk of a video that was cut out of a longer one.

``learned``: nothing, it is like any other. Otherwise it carries no loss, and its first latent is made an
image latent (decoded, its last picture encoded), as the networks know the first latent of a clip. ``noised``:
the networks see it at the noise level of the others (public code). ``given``: they see it clean.
"""


class ChunkRecompute(NamedTuple):
    """Frames that learn, and how they are made again with a graph.

    Args:
        first: Where they begin in the video; negative where the video was cut.
        recompute: Makes them, ``[B, F, C, H, W]``.
    """

    first: int
    recompute: Callable[[], Tensor]

    def surrogate_loss(self, gradient_BFCHW: Tensor) -> Tensor:
        """Make the frames again; return a scalar whose gradient at them is their part of the video's."""
        with torch.enable_grad():
            frames = self.recompute()
            begin = max(self.first, 0)
            end = min(self.first + frames.shape[1], gradient_BFCHW.shape[1])
            own = frames[:, begin - self.first : end - self.first]
            return (own * gradient_BFCHW[:, begin:end].to(own)).sum()


class Rollout(NamedTuple):
    """A video to score.

    Args:
        video_BFCHW: Its latents, with a graph where gradients are enabled.
        text_BSD: The prompts that it is scored under.
        exit_step: The denoise pass its chunks were left at; ``None`` where that is not one number.
        given_frames: First frames that were given: clean for all networks, without loss.
        unscored_frames: First frames that carry no loss, though the networks see them noised.
        recomputes: How its frames are made again, if that was asked for.
        persistent_state: What the next rollout goes on from.
    """

    video_BFCHW: Tensor
    text_BSD: Tensor
    exit_step: int | None
    given_frames: int = 0
    unscored_frames: int = 0
    recomputes: tuple[ChunkRecompute, ...] = ()
    persistent_state: StreamState | None = None

    @property
    def constant_frames(self) -> int:
        """Count the first frames that learn nothing."""
        return max(self.given_frames, self.unscored_frames)


@dataclass(frozen=True)
class Request:
    """What a rollout is made from.

    Args:
        streamer: Who generates.
        codec: Pictures, for frames that are encoded anew.
        text_BSD: Text embeddings of the batch.
        clip_BFCHW: Latents of the first frames of the batch's clips, as many as ``Rollouts.clip_frames``
            asked for; ``None`` if that was none.
        num_frames: Latent frames to score, given ones included.
        context_frames: How many of the first are given.
        latent_shape: ``(C, H, W)`` of a latent frame.
        seed: Seed of the stream's noise, the same on all ranks.
        stream_ids: Identity of every row over all ranks.
        rank_rng: Makes the generator of one purpose, different on every rank.
        global_rng: Makes the generator of one purpose, the same on all ranks.
        exit_of: The denoise pass at which chunks like that one are left, so many before it being given;
            ``None`` completes them all.
        kv_gradient: What cached keys and values pass back between chunks.
        keep_recomputes: Also say how the frames are made again.
        persistent_state: What the last rollout handed on.
    """

    streamer: Streamer
    codec: Codec
    text_BSD: Tensor
    clip_BFCHW: Tensor | None
    num_frames: int
    context_frames: int
    latent_shape: tuple[int, int, int]
    seed: int
    stream_ids: tuple[int, ...]
    rank_rng: Callable[[str], torch.Generator]
    global_rng: Callable[[str], torch.Generator]
    exit_of: Callable[[Schedule, int, int], int] | None
    kv_gradient: KVGradient = "detach"
    keep_recomputes: bool = False
    persistent_state: StreamState | None = None

    def open(self) -> StreamState:
        """Return a stream of the batch's prompts that has not produced anything."""
        return self.streamer.start(
            self.text_BSD,
            latent_shape=self.latent_shape,
            seed=self.seed,
            stream_ids=self.stream_ids,
        )


class Rollouts(ABC):
    """Make the videos that the losses score. Holds options, never a stream."""

    num_kinds = 1
    """Rollouts in a row that show what memory they take: more where it depends on what is drawn or was before."""

    @property
    def is_persistent(self) -> bool:
        """Whether a rollout goes on from the last one."""
        return False

    def clip_frames(self, num_frames: int, context_frames: int) -> int:
        """Return how many latent frames of the batch's clips are needed."""
        del num_frames
        return context_frames

    def check(self, streamer: Streamer, num_frames: int, context_frames: int) -> None:
        """Refuse what cannot be rolled out, before training begins.

        Args:
            streamer: Who will generate.
            num_frames: Latent frames to score.
            context_frames: How many of them are given.

        Raises:
            ValueError: If frames are no whole chunks, or nothing is left to generate.
        """
        generated_chunks(streamer.schedule, num_frames, context_frames)
        if streamer.schedule.num_ahead:
            raise ValueError(
                f"{type(self).__name__} leaves chunks one by one, but "
                f"{type(streamer.schedule).__name__} denoises several together; use JointRollouts"
            )

    @abstractmethod
    def make(self, request: Request) -> Rollout:
        """Return a video ``[B, num_frames, C, H, W]`` and what scoring it takes."""


def generated_chunks(schedule: Schedule, num_frames: int, context_frames: int) -> int:
    """Return how many chunks of a rollout are generated.

    Raises:
        ValueError: If the frames are no whole chunks, or all of them are given.
    """
    chunks = len(schedule.chunks_of(num_frames))
    if context_frames:
        chunks -= len(schedule.chunks_of(context_frames))
    if chunks < 1:
        raise ValueError(
            f"`context_frames` {context_frames} leaves nothing of `num_frames` {num_frames} to "
            "generate"
        )
    return chunks


def denoise_count(schedule: Schedule, chunk: int, given_chunks: int = 0) -> int:
    """Count a chunk's denoise passes, where so many chunks before it were given."""
    return len(denoise_passes(schedule.passes_at(chunk, given_chunks)))


def check_window(
    schedule: Schedule, num_frames: int, max_frames: int, first_chunk: FirstChunk
) -> None:
    """Refuse lengths out of which no windows of whole chunks can be cut.

    Raises:
        ValueError: Naming the number.
    """
    chunk = schedule.chunk_frames
    if schedule.first_chunk_frames != chunk:
        raise ValueError(
            f"a window out of a longer rollout needs chunks of one size, got a first chunk of "
            f"{schedule.first_chunk_frames} and others of {chunk} frames"
        )
    if max_frames < num_frames or max_frames % chunk:
        raise ValueError(
            f"`max_frames` must be whole chunks of {chunk} and at least `num_frames` {num_frames}, "
            f"got {max_frames}"
        )
    if first_chunk != "learned" and num_frames <= chunk:
        raise ValueError(
            f"`num_frames` {num_frames} is a single chunk, and with `first_chunk` {first_chunk!r} "
            "that learns nothing"
        )
