"""A folder of videos and captions as a map-style dataset."""

# Shapes: F frames, C colour, H W height / width in pixels.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_adastate.data.sampler import Draw
from lightning_adastate.media.video import probe_video, read_video
from lightning_adastate.types import VideoBatch

SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi")

Keep = Literal["nothing", "decoded"]


class Clip(NamedTuple):
    """One clip, uint8 ``[F, 3, H, W]``, and its caption."""

    video_FCHW: Tensor
    prompt: str


class Source(NamedTuple):
    """A video file, its caption and its number of frames."""

    path: Path
    prompt: str
    num_frames: int


def find_sources(folder: Path, *, clip_frames: int, height: int, width: int) -> list[Source]:
    """Return every video below ``folder`` with its caption, in order of their paths.

    Raises:
        ValueError: If the folder has no videos, or one of them is broken, too short, of another size,
            or without caption; the file is named.
    """
    if not folder.is_dir():
        raise ValueError(f"video folder '{folder}' does not exist")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"video folder '{folder}' holds no videos ({', '.join(SUFFIXES)})")
    sources = []
    for path in paths:
        prompt = _caption(path)
        info = probe_video(path)
        if (info.height, info.width) != (height, width):
            raise ValueError(
                f"video file '{path}' is {info.height} x {info.width}, expected {height} x {width}; "
                "resize it or change `height` and `width`"
            )
        if info.num_frames < clip_frames:
            raise ValueError(
                f"video file '{path}' has {info.num_frames} frames, `clip_frames` is {clip_frames}"
            )
        sources.append(Source(path, prompt, info.num_frames))
    return sources


def _caption(video: Path) -> str:
    path = video.with_suffix(".txt")
    try:
        prompt = " ".join(path.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError as error:
        raise ValueError(f"video file '{video}' has no caption; write it to '{path}'") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"caption file '{path}' is no readable UTF-8 text") from error
    if not prompt:
        raise ValueError(f"caption file '{path}' is empty")
    return prompt


class VideoClips(Dataset[Clip]):
    """Cut a clip out of each video. Which one is in the draw, so nothing here is random.

    Args:
        sources: Videos and captions.
        clip_frames: Frames per clip.
        keep: ``decoded`` reads all videos at once and keeps them in memory, as uint8.
    """

    def __init__(
        self, sources: Sequence[Source], *, clip_frames: int, keep: Keep = "nothing"
    ) -> None:
        self.sources = list(sources)
        self.clip_frames = clip_frames
        self.kept = [read_video(source.path) for source in sources] if keep == "decoded" else None

    def __len__(self) -> int:
        """Count the videos."""
        return len(self.sources)

    def __getitem__(self, draw: Draw) -> Clip:
        """Return the clip; number 0 is the start of the video."""
        source = self.sources[draw.video]
        start = draw.number % (source.num_frames - self.clip_frames + 1)
        if self.kept is None:
            video = read_video(source.path, start, self.clip_frames)
        else:
            video = self.kept[draw.video][start : start + self.clip_frames]
        return Clip(video, source.prompt)


def collate(clips: list[Clip]) -> VideoBatch:
    """Return clips as one batch of floats in [0, 1]."""
    video = torch.stack([clip.video_FCHW for clip in clips])
    return {"video": video.float() / 255.0, "prompts": [clip.prompt for clip in clips]}
