"""Long rollouts: a random window out of a stream far beyond the teacher's horizon (Self-Forcing++, arXiv 2510.02283)."""

from __future__ import annotations

import torch

from lightning_adastate.rollouts.base import FirstChunk, Request, Rollout, Rollouts, check_window
from lightning_adastate.rollouts.recorder import RolloutRecorder
from lightning_adastate.streaming.streamer import Streamer


class LongRollouts(Rollouts):
    """Stream on to a random place, and score the frames there.

    Up to the window the stream is exactly what generation makes, without a graph: memory is that of the
    window. The loss noises the window again, so teacher and critic see the stream's own frames.

    Args:
        max_frames: Latent frames of the longest stream; all windows in it are equally likely.
        first_chunk: What becomes of the window's first chunk, unless it begins the stream: ``learned``
            nothing; else its first latent is made an image latent and it carries no loss, and the
            networks see it ``noised`` as the others, or clean (``given``).
    """

    num_kinds = 2

    def __init__(self, max_frames: int, *, first_chunk: FirstChunk = "learned") -> None:
        self.max_frames = max_frames
        self.first_chunk: FirstChunk = first_chunk

    def check(self, streamer: Streamer, num_frames: int, context_frames: int) -> None:
        """Refuse lengths that are no whole chunks, or windows that learn nothing."""
        super().check(streamer, num_frames, context_frames)
        check_window(streamer.schedule, num_frames, self.max_frames, self.first_chunk)

    def make(self, request: Request) -> Rollout:
        """Roll out to the end of the window."""
        size = request.streamer.schedule.chunk_frames
        places = (self.max_frames - request.num_frames) // size + 1
        first = int(torch.randint(0, places, (1,), generator=request.global_rng("window")))
        recorder = RolloutRecorder(request)
        recorder.prefill(request.clip_BFCHW)
        constant = first > 0 and self.first_chunk != "learned"
        learns = max(first + constant, recorder.state.chunk)
        recorder.run_on(learns - recorder.state.chunk)
        recorder.learn(first + request.num_frames // size - learns)
        return recorder.rollout(start=first * size, first_chunk=self.first_chunk)
