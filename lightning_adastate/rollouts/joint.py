"""Joint rollouts: windows of chunks at rising noise, mixed with chunk-by-chunk ones (Rolling Forcing, arXiv 2509.25161)."""

from __future__ import annotations

from dataclasses import replace

import torch

from lightning_adastate.rollouts.base import (
    FirstChunk,
    Request,
    Rollout,
    Rollouts,
    check_window,
    generated_chunks,
)
from lightning_adastate.rollouts.fresh import FreshRollouts
from lightning_adastate.rollouts.recorder import RolloutRecorder
from lightning_adastate.schedules import Schedule
from lightning_adastate.streaming.streamer import Streamer


class JointRollouts(Rollouts):
    """Denoise windows of chunks jointly in some batches, and chunk after chunk in the others.

    In a rolling batch every T-th window has a graph, T being the chunks of a window: they do not overlap and
    cover the video, in which every frame is what its window took it for, at its own noise level. The stream
    itself goes on as in generation. Built from the paper and notes on it alone: its code is for academic
    use. The last window may look past the end of the video, as in generation.

    Args:
        schedule: Of the chunk-by-chunk batches; its steps should be those of the joint schedule.
        others: How those are rolled out; ``None`` is ``FreshRollouts``. ``LongRollouts`` scores their end.
        probability: Share of rolling batches.
        max_frames: Longest rolling rollout: its last frames are scored, and all lengths are equally likely
            (Rolling Forcing: 27). ``None`` is ``num_frames``.
        first_chunk: What becomes of the video's first chunk, unless it begins the stream: ``learned``
            nothing; else its first latent is made an image latent and it carries no loss, and the
            networks see it ``noised`` as the others, or clean (``given``).

    Raises:
        ValueError: If ``probability`` is outside [0, 1].
    """

    num_kinds = 4

    def __init__(
        self,
        schedule: Schedule,
        *,
        others: Rollouts | None = None,
        probability: float = 0.5,
        max_frames: int | None = None,
        first_chunk: FirstChunk = "learned",
    ) -> None:
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"`probability` must be in [0, 1], got {probability}")
        self.schedule = schedule
        self.others = FreshRollouts() if others is None else others
        self.probability = probability
        self.max_frames = max_frames
        self.first_chunk: FirstChunk = first_chunk

    @property
    def is_persistent(self) -> bool:
        """Whether the chunk-by-chunk rollouts go on from the last one."""
        return self.others.is_persistent

    def clip_frames(self, num_frames: int, context_frames: int) -> int:
        """Ask for what the chunk-by-chunk rollouts need."""
        return self.others.clip_frames(num_frames, context_frames)

    def check(self, streamer: Streamer, num_frames: int, context_frames: int) -> None:
        """Refuse a schedule that denoises chunks one by one, and what the others cannot do."""
        joint = streamer.schedule
        if not joint.num_ahead:
            raise ValueError(
                f"JointRollouts needs a schedule that denoises several chunks together, as "
                f"RollingSchedule, got {type(joint).__name__}"
            )
        if self.schedule.chunk_frames != joint.chunk_frames:
            raise ValueError(
                f"`schedule` must have chunks of {joint.chunk_frames} frames as the joint one, got "
                f"{self.schedule.chunk_frames}"
            )
        generated_chunks(joint, num_frames, context_frames)
        if self.max_frames is not None:
            check_window(joint, num_frames, self.max_frames, self.first_chunk)
        self.others.check(self._chunkwise(streamer), num_frames, context_frames)

    def make(self, request: Request) -> Rollout:
        """Draw which of both, the same on all ranks."""
        drawn = float(torch.rand((), generator=request.global_rng("joint"), dtype=torch.float32))
        if drawn >= self.probability:
            return self.others.make(replace(request, streamer=self._chunkwise(request.streamer)))
        return self._roll(request)._replace(persistent_state=request.persistent_state)

    def _roll(self, request: Request) -> Rollout:
        size, period = (
            request.streamer.schedule.chunk_frames,
            request.streamer.schedule.num_ahead + 1,
        )
        start = self._draw_start(request, size)
        place = int(torch.randint(0, period, (1,), generator=request.global_rng("window")))
        recorder = RolloutRecorder(request)
        if request.clip_BFCHW is not None:
            recorder.prefill(request.clip_BFCHW[:, : request.context_frames])
        index = 0
        while (
            recorder.num_scored < start + request.num_frames or recorder.state.first_frame <= start
        ):
            # Window p of the opening is the first chunk's pass p; later chunks have one pass each.
            exit_step, chunks = (0, period) if index else (place, place + 1)
            if index and index % period != (place + 1) % period:
                recorder.run_on(1, score=False)
            else:
                recorder.record_chunk(
                    exit_step, learns=recorder.num_scored + chunks * size > start
                )
            index += 1
        return recorder.rollout(start=start, first_chunk=self.first_chunk)._replace(exit_step=None)

    def _draw_start(self, request: Request, size: int) -> int:
        longest = request.num_frames if self.max_frames is None else self.max_frames
        places = (longest - request.num_frames) // size + 1
        return size * int(torch.randint(0, places, (1,), generator=request.global_rng("length")))

    def _chunkwise(self, streamer: Streamer) -> Streamer:
        """Return the same networks and policies under the other schedule."""
        return Streamer(
            streamer.backbone,
            anchor=streamer.anchor,
            cache=streamer.cache,
            schedule=self.schedule,
            noise=streamer.noise,
        )
