"""A user's own videos and captions, for training that can be stopped and resumed at any batch."""

from __future__ import annotations

from pathlib import Path

from lightning_adastate.data.resumable import ResumableData
from lightning_adastate.data.video_clips import Keep, Source, VideoClips, collate, find_sources


class VideoFolderData(ResumableData):
    """Read ``name.mp4`` with its caption in ``name.txt`` from a folder and all folders in it.

    Each epoch cuts one clip at a random place out of each video; batches are ``VideoBatch``. All
    choices are a pure function of ``seed``, epoch and rank, and the loaders never touch the global
    random state, so a resumed run sees the very batches it would have seen.

    Args:
        folder: Where the videos are.
        clip_frames: Frames per clip.
        height: Rows every video must have.
        width: Columns every video must have.
        batch_size: Clips per batch and rank.
        val_fraction: Share of the videos set aside for validation, in [0, 1).
        num_workers: Processes that read; 0 reads in the main one.
        seed: Of the split, the order and the places.
        keep: ``decoded`` keeps all videos in memory, for small folders.

    Raises:
        ValueError: If a number is out of range; at set-up, if a file does not fit.
    """

    noun = "videos"

    def __init__(
        self,
        folder: str,
        *,
        clip_frames: int,
        height: int,
        width: int,
        batch_size: int = 16,
        val_fraction: float = 0.05,
        num_workers: int = 0,
        seed: int = 0,
        keep: Keep = "nothing",
    ) -> None:
        super().__init__(
            batch_size=batch_size, val_fraction=val_fraction, num_workers=num_workers, seed=seed
        )
        if clip_frames < 1:
            raise ValueError(f"`clip_frames` must be 1 or more, got {clip_frames}")
        if keep not in ("nothing", "decoded"):
            raise ValueError(f"`keep` must be nothing or decoded, got {keep!r}")
        self.folder = Path(folder).expanduser()
        self.clip_frames = clip_frames
        self.height = height
        self.width = width
        self.keep: Keep = keep
        self.collate = collate

    @property
    def source(self) -> str:
        """Name the folder."""
        return str(self.folder)

    def setup(self, stage: str | None = None) -> None:
        """Find, check and split the videos; the same split on every rank."""
        del stage
        if self.train_rows is not None:
            return
        sources = find_sources(
            self.folder, clip_frames=self.clip_frames, height=self.height, width=self.width
        )
        train, val = self.split(len(sources))
        self.train_rows = self._clips([sources[i] for i in train])
        self.val_rows = self._clips([sources[i] for i in val])

    def _clips(self, sources: list[Source]) -> VideoClips:
        return VideoClips(sources, clip_frames=self.clip_frames, keep=self.keep)
