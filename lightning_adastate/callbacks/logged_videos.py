"""Videos in a trainer's loggers: TensorBoard shows them as GIFs, Weights & Biases as they are."""

# Shapes: F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from lightning_adastate.media.reading import probe_video, read_video

MAX_GIF_FRAMES = 240
"""A longer video is shown with every second, third, ... frame."""

GIF_HEIGHT = 256
"""Pixels of a GIF's height, at the most."""


def check_loggers(loggers: Sequence[Logger]) -> None:
    """Refuse loggers of which none shows videos.

    Raises:
        ValueError: If there is none.
    """
    if not any(isinstance(logger, TensorBoardLogger | WandbLogger) for logger in loggers):
        names = ", ".join(type(logger).__name__ for logger in loggers) or "none"
        raise ValueError(
            f"`keep: logged` needs a TensorBoardLogger or a WandbLogger in `trainer.logger`, got {names}"
        )


def log_videos(loggers: Sequence[Logger], videos: Mapping[str, Path], step: int) -> None:
    """Hand video files to the loggers that show videos; call it in the first process only.

    Args:
        loggers: The trainer's.
        videos: Files by the name that they get there.
        step: Generator steps so far.
    """
    for logger in loggers:
        for name, path in videos.items():
            if isinstance(logger, WandbLogger):
                logger.log_video(name, [str(path)], step=step, format=["mp4"])
            elif isinstance(logger, TensorBoardLogger):
                _add_gif(logger, name, path, step)


def _add_gif(logger: TensorBoardLogger, name: str, path: Path, step: int) -> None:
    """Add a GIF as a picture, which TensorBoard plays; its own ``add_video`` would need moviepy and ffmpeg."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    info = probe_video(path)
    width = round(info.width * GIF_HEIGHT / info.height)
    size = (GIF_HEIGHT, width) if info.height > GIF_HEIGHT else None
    video = read_video(path, size=size)
    height, width = video.shape[2:]
    picture = Summary.Image(
        height=height,
        width=width,
        colorspace=3,
        encoded_image_string=gif_of(video, float(info.fps)),
    )
    summary = Summary(value=[Summary.Value(tag=name, image=picture)])
    writer = logger.experiment.file_writer
    writer.add_summary(summary, step)
    writer.flush()


def gif_of(video_FCHW: Tensor, fps: float) -> bytes:
    """Return frames ``[F, 3, H, W]``, uint8, as a GIF that repeats; times are rounded to hundredths of a second."""
    every = -(-len(video_FCHW) // MAX_GIF_FRAMES)
    pictures = video_FCHW[::every].permute(0, 2, 3, 1).contiguous().numpy()
    first, *rest = [Image.fromarray(picture).quantize() for picture in pictures]
    file = io.BytesIO()
    milliseconds = round(1000 * every / fps)
    first.save(file, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)
    return file.getvalue()
