"""A folder of videos and captions as a map-style dataset."""

# Shapes: F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import Dataset

from lightning_adastate.data.fitting import listed
from lightning_adastate.data.sampler import Draw
from lightning_adastate.data.video_names import SUFFIXES
from lightning_adastate.media.reading import VideoInfo, probe_video, read_video
from lightning_adastate.types import VideoBatch

log = logging.getLogger(__name__)

MOST_PROBES, VIDEOS_PER_PROBE = 8, 32
"""Processes that look at videos side by side, and how many videos are worth one more."""

SAME_RATE = Fraction(99, 100)
"""Rates that differ by less are the same: 23.976 and 24."""

Keep = Literal["nothing", "decoded"]

Problem = Callable[[str], str | None]
"""Says why a caption cannot be used, or ``None``."""


class Clip(NamedTuple):
    """One clip, uint8 ``[F, 3, H, W]``, and its caption."""

    video_FCHW: Tensor
    prompt: str


class ClipForm(NamedTuple):
    """What every clip is brought to.

    Args:
        num_frames: Its frames.
        size: Height and width: the shorter side is scaled, then the centre is cut out.
        fps: Frames per second; ``None`` is the video's own.
    """

    num_frames: int
    size: tuple[int, int]
    fps: Fraction | None = None


class Source(NamedTuple):
    """A video file, its caption and its number of frames at the clips' rate."""

    path: Path
    prompt: str
    num_frames: int


def find_sources(
    folder: Path,
    form: ClipForm,
    *,
    problem: Problem = lambda _: None,
    skip_broken: bool = False,
) -> list[Source]:
    """Return every video below ``folder`` with its caption, in order of their paths.

    Args:
        folder: Where they are.
        form: What their clips will be.
        problem: Says what is wrong with a caption.
        skip_broken: Go on without videos that cannot be used, and say which.

    Raises:
        ValueError: If the folder has no videos; or some are broken, too short, too slow, or have no caption that can
            be used, and all of them are named; or their rates differ and ``form`` names none.
    """
    if not folder.is_dir():
        raise ValueError(f"video folder '{folder}' does not exist")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"video folder '{folder}' holds no videos ({', '.join(SUFFIXES)})")
    probes = min(MOST_PROBES, os.cpu_count() or 1, 1 + len(paths) // VIDEOS_PER_PROBE)
    with ThreadPoolExecutor(probes) as threads:
        seen = list(threads.map(lambda path: _look(path, form, problem), paths))
    problems = [each for each in seen if isinstance(each, str)]
    found = [each for each in seen if not isinstance(each, str)]
    report(problems, len(paths), skip_broken=skip_broken)
    if form.fps is None:
        _check_rates(found)
    _say_resized(found, form.size)
    return [source for source, _ in found]


def _look(path: Path, form: ClipForm, problem: Problem) -> tuple[Source, VideoInfo] | str:
    """Return a video that can be used, or what is wrong with it."""
    try:
        prompt = _caption(path)
        wrong = problem(prompt)
        if wrong is not None:
            return f"caption file '{path.with_suffix('.txt')}' {wrong}"
        info = probe_video(path)
    except ValueError as error:
        return str(error)
    if form.fps is not None and info.fps < form.fps * SAME_RATE:
        return (
            f"video file '{path}' has {float(info.fps):g} frames per second, `fps` is {float(form.fps):g}: frames "
            "would be shown twice"
        )
    count = info.frames_at(form.fps)
    if count < form.num_frames:
        rate = "" if form.fps is None else f" at {float(form.fps):g} per second"
        return f"video file '{path}' has {count} frames{rate}, `clip_frames` is {form.num_frames}"
    return Source(path, prompt, count), info


def report(problems: Sequence[str], total: int, *, skip_broken: bool) -> None:
    """Refuse videos that cannot be used, or say that it goes on without them.

    Raises:
        ValueError: If they are not to be skipped, or none is left.
    """
    if not problems:
        return
    if not skip_broken:
        remedy = "mend or remove them, or set `skip_broken`"
        raise ValueError(listed(problems, total, "videos", remedy))
    if len(problems) == total:
        raise ValueError(listed(problems, total, "videos", "there is none left"))
    _say(listed(problems, total, "videos", "going on without them"))


def _check_rates(found: Sequence[tuple[Source, VideoInfo]]) -> None:
    slowest = min(found, key=lambda each: each[1].fps)
    fastest = max(found, key=lambda each: each[1].fps)
    if slowest[1].fps < fastest[1].fps * SAME_RATE:
        raise ValueError(
            f"the videos' frame rates differ: '{slowest[0].path}' has {float(slowest[1].fps):g} frames per second, "
            f"'{fastest[0].path}' {float(fastest[1].fps):g}; give the rate of the clips as `fps`"
        )


def _say_resized(found: Sequence[tuple[Source, VideoInfo]], size: tuple[int, int]) -> None:
    others = [(source, info) for source, info in found if (info.height, info.width) != size]
    if not others:
        return
    small = sum(info.height < size[0] or info.width < size[1] for _, info in others)
    source, info = others[0]
    _say(
        f"{len(others)} of {len(found)} videos are brought to {size[0]} x {size[1]} (shorter side, then centre crop; "
        f"{small} of them enlarged): '{source.path}' is {info.height} x {info.width}"
    )


@rank_zero_only
def _say(text: str) -> None:
    log.warning(text)


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
        form: What a clip is brought to.
        keep: ``decoded`` reads all videos at once and keeps them in memory, as uint8.
        skip_broken: Take the next video for one that turns out to be broken, and say so.

    Raises:
        ValueError: With ``decoded``, if videos are broken; all are named.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        form: ClipForm,
        *,
        keep: Keep = "nothing",
        skip_broken: bool = False,
    ) -> None:
        self.sources = list(sources)
        self.form = form
        self.skip_broken = skip_broken
        self.said: set[Path] = set()
        self.kept: list[Tensor] | None = None
        if keep == "decoded":
            self._keep_all()

    def __len__(self) -> int:
        """Count the videos."""
        return len(self.sources)

    def __getitem__(self, draw: Draw) -> Clip:
        """Return the clip; number 0 is the start of the video.

        Raises:
            ValueError: If the video is broken; it is named.
        """
        for step in range(len(self.sources)):
            row = (draw.video + step) % len(self.sources)
            try:
                return self._clip(row, draw.number)
            except ValueError as error:
                if not self.skip_broken:
                    raise
                if self.sources[row].path not in self.said:
                    self.said.add(self.sources[row].path)
                    log.warning("%s; the next video stands in for it", error)
        raise ValueError(f"none of the {len(self.sources)} videos can be read")

    def _clip(self, row: int, number: int) -> Clip:
        source, length = self.sources[row], self.form.num_frames
        start = number % (source.num_frames - length + 1)
        if self.kept is None:
            fps, size = self.form.fps, self.form.size
            video = read_video(source.path, start, length, fps=fps, size=size)
        else:
            video = self.kept[row][start : start + length]
        return Clip(video, source.prompt)

    def _keep_all(self) -> None:
        """Read all videos to their ends."""
        usable, kept, problems = [], [], []
        for source in self.sources:
            try:
                video = read_video(
                    source.path, 0, source.num_frames, fps=self.form.fps, size=self.form.size
                )
            except ValueError as error:
                problems.append(str(error))
                continue
            usable.append(source)
            kept.append(video)
        report(problems, len(self.sources), skip_broken=self.skip_broken)
        self.sources, self.kept = usable, kept


def collate(clips: list[Clip]) -> VideoBatch:
    """Return clips as one batch of floats in [0, 1]."""
    video = torch.stack([clip.video_FCHW for clip in clips])
    return {"video": video.float() / 255.0, "prompts": [clip.prompt for clip in clips]}
