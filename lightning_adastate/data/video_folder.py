"""A user's own videos and captions, for training that can be stopped and resumed at any batch."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_adastate.data.sampler import ClipSampler
from lightning_adastate.data.video_clips import Keep, Source, VideoClips, collate, find_sources


class VideoFolderData(LightningDataModule):
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
        super().__init__()
        for name, count in (("clip_frames", clip_frames), ("batch_size", batch_size)):
            if count < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {count}")
        if not 0.0 <= val_fraction < 1.0:
            raise ValueError(f"`val_fraction` must be in [0, 1), got {val_fraction}")
        if num_workers < 0 or seed < 0:
            raise ValueError(
                f"`num_workers` and `seed` must be 0 or more, got {num_workers} and {seed}"
            )
        if keep not in ("nothing", "decoded"):
            raise ValueError(f"`keep` must be nothing or decoded, got {keep!r}")
        self.folder = Path(folder).expanduser()
        self.clip_frames = clip_frames
        self.height = height
        self.width = width
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.num_workers = num_workers
        self.seed = seed
        self.keep: Keep = keep
        self.train_clips: VideoClips | None = None
        self.val_clips: VideoClips | None = None

    def setup(self, stage: str | None = None) -> None:
        """Find, check and split the videos; the same split on every rank."""
        del stage
        if self.train_clips is not None:
            return
        sources = find_sources(
            self.folder, clip_frames=self.clip_frames, height=self.height, width=self.width
        )
        num_val = round(self.val_fraction * len(sources))
        if self.val_fraction:
            num_val = max(1, num_val)
        order = torch.randperm(len(sources), generator=self._generator()).tolist()
        self.val_clips = self._clips([sources[i] for i in sorted(order[:num_val])])
        self.train_clips = self._clips([sources[i] for i in sorted(order[num_val:])])

    def train_dataloader(self) -> StatefulDataLoader:
        """Return shuffled batches of equal size.

        Raises:
            ValueError: If there are fewer videos than one batch on every rank needs.
        """
        assert self.train_clips is not None, "call `setup` first"
        wanted = self.batch_size * self._num_ranks
        if len(self.train_clips) < wanted:
            raise ValueError(
                f"'{self.folder}' has {len(self.train_clips)} videos for training, one batch on each "
                f"of {self._num_ranks} ranks needs {wanted}; lower `batch_size` or `val_fraction`"
            )
        return self._loader(self.train_clips, shuffle=True)

    def val_dataloader(self) -> StatefulDataLoader | list[StatefulDataLoader]:
        """Return the videos set aside, each cut at its start, in order; no loader if there are none."""
        assert self.val_clips is not None, "call `setup` first"
        return self._loader(self.val_clips, shuffle=False) if len(self.val_clips) else []

    def test_dataloader(self) -> StatefulDataLoader | list[StatefulDataLoader]:
        """Return the videos set aside, as for validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> StatefulDataLoader | list[StatefulDataLoader]:
        """Return the videos set aside, as for validation: their captions are what is streamed."""
        return self.val_dataloader()

    def _clips(self, sources: list[Source]) -> VideoClips:
        return VideoClips(sources, clip_frames=self.clip_frames, keep=self.keep)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @property
    def _num_ranks(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    def _loader(self, clips: VideoClips, *, shuffle: bool) -> StatefulDataLoader:
        sampler = ClipSampler(
            clips,
            num_replicas=self._num_ranks,
            rank=0 if self.trainer is None else self.trainer.global_rank,
            seed=self.seed,
            shuffle=shuffle,
        )
        if shuffle and self.trainer is not None:
            # Lightning tells the epoch only once the loader has begun, and brings no loader back to its
            # place if the checkpoint was saved at the end of an epoch.
            progress = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*set_vital")  # torchdata 0.11, torch 2.13
            return StatefulDataLoader(
                clips,
                batch_size=self.batch_size,
                sampler=sampler,
                drop_last=shuffle,
                collate_fn=collate,
                num_workers=self.num_workers,
                persistent_workers=self.num_workers > 0,
                # A loader without its own generator draws from the global random state.
                generator=self._generator(),
            )
