"""Long streams while training: the same prompts and noise every time, scored, and kept as videos if wanted."""

# Shapes: B streams, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_adastate.callbacks.exact_resume import random_state, restore_random_state
from lightning_adastate.data import read_prompts
from lightning_adastate.media.video import VideoWriter, watchable_scale
from lightning_adastate.metrics import CurveRecorder, VideoMetrics
from lightning_adastate.streaming.pipeline import PixelStreaming, evaluating


class StreamMetrics(Callback):
    """Stream a few prompts, usually far beyond the training horizon, and log ``VideoMetrics`` of them.

    What streams is what `generate` would use: the average of the weights where there is one. Prompts and
    noise are the same every time. Nothing of the training changes: random states, modes and gradients are
    as they were, and a run with this callback ends bit for bit where one without it does. Scores that mean
    nothing for these videos are not logged. Every process makes the same streams (sharded weights need all
    of them); the first one writes.

    Args:
        prompts: A prompt, or a text file with one per line; all are streamed in lock-step.
        num_chunks: Chunks per stream.
        every_steps: Stream after every so many generator steps, in training; ``None`` is at the end of
            every validation.
        seed: Of the noise.
        window_frames: Pixel frames the model sees back; ``novelty`` compares with older ones.
        keep: ``videos`` writes ``streams/step-.../stream-00.mp4`` below the logger's folder, or the
            trainer's root without one.
        fps: Frames per second of the videos.

    Raises:
        ValueError: If a number is too small, or there is no prompt.
    """

    def __init__(
        self,
        prompts: str,
        *,
        num_chunks: int = 14,
        every_steps: int | None = None,
        seed: int = 0,
        window_frames: int = 24,
        keep: Literal["scores", "videos"] = "scores",
        fps: int = 16,
    ) -> None:
        super().__init__()
        for name, value in (
            ("num_chunks", num_chunks),
            ("every_steps", every_steps),
            ("window_frames", window_frames),
            ("fps", fps),
        ):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {value}")
        if keep not in ("scores", "videos"):
            raise ValueError(f"`keep` must be scores or videos, got {keep!r}")
        self.prompts = read_prompts(prompts)
        self.num_chunks = num_chunks
        self.every_steps = every_steps
        self.seed = seed
        self.window_frames = window_frames
        self.keep = keep
        self.fps = fps
        self.last_step = 0

    # -- when -----------------------------------------------------------------------------------

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stream at the end of a validation."""
        if self.every_steps is None and not trainer.sanity_checking:
            pl_module.log_dict(self._stream(trainer, pl_module), batch_size=len(self.prompts))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Stream once after the generator steps that are due; a critic's batch is none."""
        del outputs, batch, batch_idx
        step = trainer.global_step
        if self.every_steps is None or step == self.last_step:
            return
        self.last_step = step
        if step % self.every_steps:
            return
        scores = self._stream(trainer, pl_module)
        pl_module.log_dict(scores, logger=False, batch_size=len(self.prompts))
        # Lightning would drop them unless this happened to be one of every `log_every_n_steps` batches.
        for logger in trainer.loggers:
            logger.log_metrics(scores, step=step)

    def state_dict(self) -> dict[str, int]:
        """Return the last generator step that was seen, so that a resumed run streams when it would have."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Load it."""
        self.last_step = state_dict["last_step"]

    # -- what -----------------------------------------------------------------------------------

    def _stream(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        assert isinstance(pl_module, PixelStreaming)
        with _undisturbed(trainer, pl_module):
            scores = self.scores(trainer, pl_module)
        return {f"stream/{name}": value for name, value in scores.items()}

    def scores(self, trainer: Trainer, module: PixelStreaming) -> dict[str, float]:
        """Stream, and return the means of the scores that mean something."""
        chunks = [
            module.codec.pixel_frames(module.streamer.schedule.frames_of(0)),
            module.codec.temporal_stride * module.streamer.schedule.chunk_frames,
        ]
        metrics = VideoMetrics(
            first_chunk_frames=chunks[0] if chunks[1] > 1 else None,
            chunk_frames=chunks[1] if chunks[1] > 1 else None,
            window_frames=self.window_frames,
        )
        recorder = CurveRecorder()
        state = module.open_stream(self.prompts, seed=self.seed)
        with contextlib.ExitStack() as stack:
            videos = [
                stack.enter_context(writer) for writer in self._writers(trainer, module, chunks[1])
            ]
            for made in module.stream(state, self.num_chunks):
                recorder.append(made.video_BFCHW)
                for row, video in enumerate(videos):
                    video.append(made.video_BFCHW[row])
        metrics.update(recorder.curves())
        means = metrics.compute()
        return {name: value.item() for name, value in means.items() if not value.isnan()}

    def _writers(
        self, trainer: Trainer, module: PixelStreaming, chunk_frames: int
    ) -> Iterator[VideoWriter]:
        """Yield a video for each stream, or nothing."""
        if self.keep != "videos" or not trainer.is_global_zero:
            return
        folder = self.folder(trainer)
        scale = watchable_scale(module.frame_size[0])
        for row in range(len(self.prompts)):
            path = folder / f"stream-{row:02d}.mp4"
            yield VideoWriter(path, fps=self.fps, scale=scale, chunk_frames=chunk_frames)

    def folder(self, trainer: Trainer) -> Path:
        """Return where the videos of this step go."""
        root = trainer.log_dir or trainer.default_root_dir
        return Path(root) / "streams" / f"step-{trainer.global_step:08d}"


@contextlib.contextmanager
def _undisturbed(trainer: Trainer, module: PixelStreaming) -> Iterator[None]:
    """Run as streaming runs (precision, evaluation mode), and leave everything as it was."""
    before = random_state()
    try:
        with evaluating(module.streamer), trainer.precision_plugin.forward_context():
            yield
    finally:
        restore_random_state(before)
