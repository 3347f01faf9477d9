"""A user's own videos and captions, for training that can be stopped and resumed at any batch."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path

from lightning_adastate.data.fitting import frame_size_for, model_of, prompt_problem
from lightning_adastate.data.resumable import ResumableData
from lightning_adastate.data.video_clips import (
    ClipForm,
    Keep,
    Source,
    VideoClips,
    collate,
    find_sources,
)
from lightning_adastate.media.video import check_fps
from lightning_adastate.streaming.pipeline import PixelStreaming


class VideoFolderData(ResumableData):
    """Read ``name.mp4`` with its caption in ``name.txt`` from a folder and all folders in it.

    Each epoch cuts one clip at a random place out of each video; batches are ``VideoBatch``. All
    choices are a pure function of ``seed``, epoch and rank, and the loaders never touch the global
    random state, so a resumed run sees the very batches it would have seen.

    Videos may have any size: the shorter side is scaled and the centre cut out, which is said once. They are decoded in
    a process of their own with limits, so a broken one stops nothing but itself: all that cannot be used are named
    together before training begins.

    Args:
        folder: Where the videos are.
        clip_frames: Frames per clip.
        height: Rows of a clip; ``None`` is the model's ``frame_size``, and another is refused.
        width: Columns of a clip, likewise.
        batch_size: Clips per batch and rank.
        val_fraction: Share of the videos set aside for validation, in [0, 1).
        num_workers: Processes that read; 0 reads in the main one.
        seed: Of the split, the order and the places.
        keep: ``decoded`` keeps all videos in memory, for small folders.
        fps: Frames per second of a clip, nearest in time of the video's; a slower video is refused. ``None`` takes the
            frames as they are, if all videos have one rate.
        skip_broken: Go on without videos that cannot be used, and say which.

    Raises:
        ValueError: If a number is out of range; at set-up, if a file does not fit, or the size is not the model's.
    """

    noun = "videos"

    def __init__(
        self,
        folder: str,
        *,
        clip_frames: int,
        height: int | None = None,
        width: int | None = None,
        batch_size: int = 16,
        val_fraction: float = 0.05,
        num_workers: int = 0,
        seed: int = 0,
        keep: Keep = "nothing",
        fps: float | None = None,
        skip_broken: bool = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size, val_fraction=val_fraction, num_workers=num_workers, seed=seed
        )
        if clip_frames < 1:
            raise ValueError(f"`clip_frames` must be 1 or more, got {clip_frames}")
        if keep not in ("nothing", "decoded"):
            raise ValueError(f"`keep` must be nothing or decoded, got {keep!r}")
        if (height is None) != (width is None):
            raise ValueError(f"give `height` and `width` or neither, got {height} and {width}")
        for name, side in (("height", height), ("width", width)):
            if side is not None and side < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {side}")
        if fps is not None:
            check_fps(fps)
        self.folder = Path(folder).expanduser()
        self.clip_frames = clip_frames
        self.height = height
        self.width = width
        self.keep: Keep = keep
        self.fps = None if fps is None else Fraction(fps).limit_denominator(100_000)
        self.skip_broken = skip_broken
        self.collate = collate

    @property
    def source(self) -> str:
        """Name the folder."""
        return str(self.folder)

    def setup(self, stage: str | None = None) -> None:
        """Find, check and split the videos; the same split on every rank."""
        del stage
        self.setup_for(model_of(self))

    def setup_for(self, model: PixelStreaming | None) -> None:
        """Find, check and split the videos, for a model that no trainer has brought.

        Raises:
            ValueError: If the size is not the model's, a caption is too long for it, or a video cannot be used.
        """
        size = frame_size_for(model, self.height, self.width)
        if self.train_rows is not None:
            return
        form = ClipForm(self.clip_frames, size, self.fps)
        sources = find_sources(
            self.folder,
            form,
            problem=partial(prompt_problem, model),
            skip_broken=self.skip_broken,
        )
        train, val = self.split(len(sources))
        self.train_rows = self._clips([sources[i] for i in train], form)
        self.val_rows = self._clips([sources[i] for i in val], form)

    def _clips(self, sources: list[Source], form: ClipForm) -> VideoClips:
        return VideoClips(sources, form, keep=self.keep, skip_broken=self.skip_broken)
