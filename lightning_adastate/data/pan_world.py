"""PanWorld as a folder of clips and captions: rendered once, then read as any user's folder."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp

from rich.progress import track

from lightning_adastate.data.video_clips import Keep
from lightning_adastate.data.video_folder import VideoFolderData
from lightning_adastate.media.video import write_video
from lightning_adastate.worlds import PanWorld

FORMAT = 1
"""Part of a cache folder's name. Raise it when the same arguments give other clips."""


class PanWorldData(VideoFolderData):
    """Render clips of PanWorld losslessly, with captions, and read them back.

    Args:
        world: The world to show.
        num_clips: Videos to render.
        video_frames: Frames of each; each epoch cuts a clip of ``clip_frames`` at a random place.
        cache_folder: Rendered videos are kept below it, in a folder named after all arguments that
            change them.
        clip_frames: Frames per clip.
        batch_size: Clips per batch and rank.
        val_fraction: Share of the videos set aside for validation, in [0, 1).
        num_workers: Processes that read; 0 reads in the main one.
        seed: Of the episodes, the split, the order and the places.
        keep: ``decoded`` keeps all videos in memory.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        world: PanWorld,
        *,
        num_clips: int = 1024,
        video_frames: int = 63,
        cache_folder: str = "~/.cache/lightning_adastate",
        clip_frames: int = 21,
        batch_size: int = 16,
        val_fraction: float = 0.05,
        num_workers: int = 0,
        seed: int = 0,
        keep: Keep = "decoded",
    ) -> None:
        if num_clips < 1:
            raise ValueError(f"`num_clips` must be 1 or more, got {num_clips}")
        if video_frames < clip_frames:
            raise ValueError(
                f"`video_frames` must be at least `clip_frames` {clip_frames}, got {video_frames}"
            )
        name = f"{FORMAT}/{world!r}/{num_clips}/{video_frames}/{seed}"
        digest = hashlib.blake2b(name.encode(), digest_size=6).hexdigest()
        super().__init__(
            str(Path(cache_folder) / f"pan_world-{digest}"),
            clip_frames=clip_frames,
            height=world.height,
            width=world.width,
            batch_size=batch_size,
            val_fraction=val_fraction,
            num_workers=num_workers,
            seed=seed,
            keep=keep,
        )
        self.world = world
        self.num_clips = num_clips
        self.video_frames = video_frames

    def prepare_data(self) -> None:
        """Render into a temporary folder and rename it, so that no half-rendered folder is ever read."""
        if self.folder.is_dir():
            return
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            half = Path(mkdtemp(prefix=f"{self.folder.name}-", dir=self.folder.parent))
        except OSError as error:
            raise ValueError(
                f"cannot write into `cache_folder` '{self.folder.parent}': {error.strerror}"
            ) from error
        try:
            for index in track(range(self.num_clips), "Rendering PanWorld", transient=True):
                self._render(half, index)
            os.rename(half, self.folder)
        except OSError:
            # Another process may have been faster; its folder is the same.
            if not self.folder.is_dir():
                raise
        finally:
            shutil.rmtree(half, ignore_errors=True)

    def _render(self, folder: Path, index: int) -> None:
        truth = self.world.sample([index], self.video_frames, seed=self.seed)
        path = folder / f"{index:06d}.mp4"
        write_video(path, self.world.render(truth)[0], quality="lossless")
        caption = self.world.prompt(float(truth.velocity_B[0]))
        path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
