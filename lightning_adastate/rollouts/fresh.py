"""Fresh rollouts: every batch begins its own stream (Self-Forcing, arXiv 2506.08009)."""

from __future__ import annotations

from lightning_adastate.rollouts.base import Request, Rollout, Rollouts, generated_chunks
from lightning_adastate.rollouts.recorder import RolloutRecorder


class FreshRollouts(Rollouts):
    """Begin a stream for every batch, and score all of it."""

    def make(self, request: Request) -> Rollout:
        """Roll out behind the given frames, if there are any."""
        recorder = RolloutRecorder(request)
        recorder.prefill(request.clip_BFCHW)
        schedule = request.streamer.schedule
        recorder.learn(generated_chunks(schedule, request.num_frames, request.context_frames))
        return recorder.rollout()
