"""Predictions as videos: one file per row, whole or not there, and none is made twice."""

# Shapes: B rows, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from lightning_adastate.files import (
    make_folder,
    missing_folders,
    partial_path,
    put_in_place,
    remove_empty,
)
from lightning_adastate.media.video import (
    Quality,
    VideoWriter,
    check_fps,
    picture_scale,
    read_comment,
)
from lightning_adastate.streaming.pipeline import PixelStreaming
from lightning_adastate.weights.fingerprint import weights_fingerprint

log = logging.getLogger(__name__)


class Order(NamedTuple):
    """A video to make.

    Args:
        name: Its file's name.
        prompt: What it shows.
        seed: Of its noise.
        stream_id: Tells its noise from that of others with the seed.
        length: How long it is, in words.
    """

    name: str
    prompt: str
    seed: int
    stream_id: int
    length: str


class VideoPredictionWriter(BasePredictionWriter):
    """Write what ``predict`` streams as mp4 files, chunk by chunk; memory does not grow with their length.

    A file gets its name when it is whole. One that is there is not made again, so the same call continues what was
    stopped, on any number of processes. What a video was made from stands in its header: if that was something else
    (weights, prompt, seed, length, size, rate), the run stops and says so. Each process writes the videos of its rows;
    the folder must be one that all of them see, or each machine keeps its own. It holds nothing but videos, as VBench
    wants it.

    Args:
        folder: Where the videos go.
        fps: Frames per second.
        upscale: Repeat every pixel so many times; ``None`` is enough for a person to see it.
        quality: ``preview`` plays everywhere, ``lossless`` is bit-exact RGB.
        overwrite: Make every video anew.

    Raises:
        ValueError: If a number is out of range; when predicting, if a file cannot be written or is another video.
    """

    def __init__(
        self,
        folder: str = "outputs/predictions",
        *,
        fps: int = 16,
        upscale: int | None = None,
        quality: Quality = "preview",
        overwrite: bool = False,
    ) -> None:
        super().__init__("batch")
        if upscale is not None and upscale < 1:
            raise ValueError(f"`upscale` must be 1 or more, got {upscale}")
        if quality not in ("preview", "lossless"):
            raise ValueError(f"`quality` must be preview or lossless, got {quality!r}")
        check_fps(fps)
        self.folder = Path(folder).expanduser()
        self.fps = fps
        self.upscale = upscale
        self.quality: Quality = quality
        self.overwrite = overwrite
        self.num_made = 0
        self.num_found = 0
        self._new_folders: list[Path] = []
        self._settings = ""
        self._scale = 1
        self._chunk_frames = 1
        self._rank = 0
        self._writing: list[tuple[VideoWriter, Path]] = []

    # -- Lightning's hooks ----------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be written, before anything is made.

        Raises:
            ValueError: If the module streams no pixels, they are too large for a video, or the folder is no place.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        if not isinstance(pl_module, PixelStreaming):
            raise ValueError(  # noqa: TRY004, as every other mistake here
                f"a {type(pl_module).__name__} streams no pixels, so there are no videos to write"
            )
        self._scale = picture_scale(pl_module.frame_size, self.quality, self.upscale)
        self._new_folders = missing_folders(self.folder / "video")
        make_folder(self.folder)
        make_folder(self.folder.absolute().parent)  # where unfinished videos wait

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out what the videos are made from, once the weights are loaded.

        Raises:
            ValueError: If a component has no stable description.
        """
        assert isinstance(pl_module, PixelStreaming)
        self._chunk_frames = pl_module.chunk_video_frames
        self._settings = settings_digest(pl_module, self.fps, self._scale, self.quality)
        self._rank = trainer.global_rank
        self.num_made = self.num_found = 0

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: object,
        batch_indices: Sequence[int] | None,
        batch: object,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Give the batch's videos their names: they are whole."""
        del trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx
        for video, path in self._writing:
            video.close()
            put_in_place(video.path, path)
            self.num_made += 1
        self._writing = []

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the videos of all processes."""
        counts = torch.tensor([self.num_made, self.num_found], device=pl_module.device)
        total = trainer.strategy.reduce(counts, reduce_op="sum")
        assert isinstance(total, Tensor)
        self.num_made, self.num_found = (int(count) for count in total.tolist())

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove what is not whole, and a new folder that nothing came into; say how to go on."""
        del trainer, pl_module, exception
        if self.num_made:
            log.warning("stopped after %d videos; the same call makes the others", self.num_made)
        self._discard()
        remove_empty(self._new_folders)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove what is not whole."""
        del trainer, pl_module, stage
        self._discard()

    # -- what a module that predicts calls ------------------------------------------------------

    def missing(self, orders: Sequence[Order]) -> list[int]:
        """Return which of a batch's videos are still to be made.

        Raises:
            ValueError: If a file of a video's name is another video.
        """
        wanted = [row for row, order in enumerate(orders) if not self._is_there(order)]
        self.num_found += len(orders) - len(wanted)
        return wanted

    def begin(self, orders: Sequence[Order]) -> None:
        """Open a file for each video, out of sight until it is whole."""
        for row, order in enumerate(orders):
            # Beside the folder: VBench reads whatever is in it. Not by name, which may be as long as a name can be.
            hidden = self.folder.with_name(f"{self.folder.name}.{self._rank}-{row}")
            video = VideoWriter(
                partial_path(hidden.absolute()),
                fps=self.fps,
                scale=self._scale,
                quality=self.quality,
                chunk_frames=self._chunk_frames,
                comment=self._comment(order),
            )
            self._writing.append((video, self.folder / order.name))

    def append(self, video_BFCHW: Tensor) -> None:
        """Write the next frames of the videos that were begun, ``[B, F, 3, H, W]``."""
        for (video, _), video_FCHW in zip(self._writing, video_BFCHW, strict=True):
            video.append(video_FCHW)

    # -- files ----------------------------------------------------------------------------------

    def _is_there(self, order: Order) -> bool:
        path = self.folder / order.name
        if self.overwrite or not path.exists():
            return False
        if read_comment(path) != self._comment(order):
            raise ValueError(
                f"'{path}' is there and was made from something else (weights, prompt, seed, length, size or rate); "
                "name another `folder`, or set `overwrite`"
            )
        return True

    def _comment(self, order: Order) -> str:
        return json.dumps({**order._asdict(), "settings": self._settings})

    def _discard(self) -> None:
        for video, _ in self._writing:
            with contextlib.suppress(Exception):  # it goes anyway, and what failed has been said
                video.close()
            video.path.unlink(missing_ok=True)
        self._writing = []


def settings_digest(module: PixelStreaming, fps: int, scale: int, quality: Quality) -> str:
    """Return a short hash of all that makes a video, but its prompt, noise and length.

    Raises:
        ValueError: If a component has no stable description.
    """
    parts = (
        module.streamer.fingerprint,
        weights_fingerprint(module.codec),
        module.text_encoder.fingerprint,
        [*module.frame_size, fps, scale, quality],
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
