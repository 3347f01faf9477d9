"""Long streams while training: the same prompts and noise every time, scored, and kept as videos if wanted."""

# Shapes: B streams, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer

from lightning_adastate.callbacks.logged_videos import check_loggers, log_videos
from lightning_adastate.callbacks.periodic import PeriodicScores
from lightning_adastate.data import read_prompts
from lightning_adastate.media.video import VideoWriter, watchable_scale
from lightning_adastate.metrics import CurveRecorder, VideoMetrics
from lightning_adastate.streaming.pipeline import PixelStreaming


class StreamMetrics(PeriodicScores):
    """Stream a few prompts, usually far beyond the training horizon, and log ``VideoMetrics`` of them.

    Prompts and noise are the same every time, the training is left as it was. Scores that mean nothing for these
    videos are not logged. Every process makes the same streams (sharded weights need all of them); the first one
    writes.

    Args:
        prompts: A prompt, or a text file with one per line; all are streamed in lock-step.
        num_chunks: Chunks per stream.
        every_steps: Stream after every so many generator steps, in training; ``None`` is at the end of
            every validation.
        seed: Of the noise.
        window_frames: Pixel frames the model sees back; ``novelty`` compares with older ones.
        keep: ``videos`` writes ``streams/step-.../stream-00.mp4`` below the logger's folder, or the
            trainer's root without one. ``logged`` does so and hands them to TensorBoard (as GIFs) and Weights &
            Biases, whichever of them logs.
        fps: Frames per second of the videos.

    Raises:
        ValueError: If a number is too small, there is no prompt, or no logger shows videos.
    """

    prefix = "stream"

    def __init__(
        self,
        prompts: str,
        *,
        num_chunks: int = 14,
        every_steps: int | None = None,
        seed: int = 0,
        window_frames: int = 24,
        keep: Literal["scores", "videos", "logged"] = "scores",
        fps: int = 16,
    ) -> None:
        super().__init__(every_steps=every_steps)
        for name, value in (
            ("num_chunks", num_chunks),
            ("window_frames", window_frames),
            ("fps", fps),
        ):
            if value < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {value}")
        if keep not in ("scores", "videos", "logged"):
            raise ValueError(f"`keep` must be scores, videos or logged, got {keep!r}")
        self.prompts = read_prompts(prompts)
        self.num_streams = len(self.prompts)
        self.num_chunks = num_chunks
        self.seed = seed
        self.window_frames = window_frames
        self.keep = keep
        self.fps = fps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say before training that no logger shows videos."""
        if self.keep == "logged" and stage == "fit":
            check_loggers(trainer.loggers)

    def scores(self, trainer: Trainer, module: PixelStreaming) -> dict[str, float]:
        """Stream, and return the means of the scores that mean something."""
        first = module.codec.pixel_frames(module.streamer.schedule.frames_of(0))
        has_seams = module.chunk_video_frames > 1
        metrics = VideoMetrics(
            first_chunk_frames=first if has_seams else None,
            chunk_frames=module.chunk_video_frames if has_seams else None,
            window_frames=self.window_frames,
        )
        recorder = CurveRecorder()
        state = module.open_stream(self.prompts, seed=self.seed)
        with contextlib.ExitStack() as stack:
            videos = [stack.enter_context(video) for video in self._writers(trainer, module)]
            for made in module.stream(state, self.num_chunks):
                recorder.append(made.video_BFCHW)
                for row, video in enumerate(videos):
                    video.append(made.video_BFCHW[row])
        if self.keep == "logged" and videos:
            named = {f"{self.prefix}/video-{n:02d}": one.path for n, one in enumerate(videos)}
            log_videos(trainer.loggers, named, trainer.global_step)
        metrics.update(recorder.curves())
        means = metrics.compute()
        return {name: value.item() for name, value in means.items() if not value.isnan()}

    def _writers(self, trainer: Trainer, module: PixelStreaming) -> Iterator[VideoWriter]:
        """Yield a video for each stream, or nothing."""
        if self.keep == "scores" or not trainer.is_global_zero:
            return
        folder = self.folder(trainer)
        scale = watchable_scale(module.frame_size[0])
        for row in range(len(self.prompts)):
            path = folder / f"stream-{row:02d}.mp4"
            frames = module.chunk_video_frames
            yield VideoWriter(path, fps=self.fps, scale=scale, chunk_frames=frames)

    def folder(self, trainer: Trainer) -> Path:
        """Return where the videos of this step go."""
        root = trainer.log_dir or trainer.default_root_dir
        return Path(root) / "streams" / f"step-{trainer.global_step:08d}"
