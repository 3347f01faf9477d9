"""What trajectories are made, from what, and whether files that are there were made the same way."""

# Shapes: B batch, F frames, C channels, H W height / width of pixels.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lightning_adastate.data import read_prompts
from lightning_adastate.data.sampler import Draw
from lightning_adastate.data.trajectory_shards import Setting, read_header
from lightning_adastate.data.video_clips import VideoClips
from lightning_adastate.data.video_folder import VideoFolderData
from lightning_adastate.training import StreamModule
from lightning_adastate.training.parallel import Reads
from lightning_adastate.training.randomness import fold_seed
from lightning_adastate.weights.fingerprint import weights_fingerprint

STORAGE = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Making:
    """What trajectories to make, and where to put them.

    Args:
        output: Folder of the files, one per batch.
        prompts: A prompt, or a text file with one per line; or give ``data``, whose captions are the prompts.
        num_clips: Trajectories in all, going round prompts or videos; ``None`` is one of each.
        num_frames: Latent frames of a clip; with ``data`` its clips' own.
        teacher: ``bidirectional`` sees the whole noisy clip (CausVid, Self-Forcing). ``teacher_forcing`` is an
            autoregressive model: every chunk sees the real clip's earlier chunks (Causal Forcing); needs ``data``.
        reads: How much of the past a ``teacher_forcing`` teacher sees: what ``model.cache`` keeps, or everything.
        context_frames: First frames that are given to the teacher, clean; needs ``data``.
        ode_steps: Euler steps; the schedule's own levels are put in where the grid lacks them.
        shift: Timestep shift of the grid.
        guidance: ``negative + guidance (positive - negative)``; 1 is none.
        negative_prompt: What guidance points away from.
        storage: Precision of the files.
        batch_size: Clips at a time, and per file.
        seed: Of the noise, and of the places where clips are cut.
        part: Make only every ``num_parts``-th file, from this one on: one process for each device.
        num_parts: Processes that share the work.
        device: Where to compute; ``auto`` is a GPU if there is one.

    Raises:
        ValueError: If a number is out of range, or guidance lacks its prompt.
    """

    output: str = "outputs/trajectories"
    prompts: str | None = None
    num_clips: int | None = None
    num_frames: int | None = None
    teacher: Literal["bidirectional", "teacher_forcing"] = "bidirectional"
    reads: Reads = "all"
    context_frames: int = 0
    ode_steps: int = 48
    shift: float = 5.0
    guidance: float = 1.0
    negative_prompt: str | None = None
    storage: Literal["float16", "bfloat16", "float32"] = "float16"
    batch_size: int = 1
    seed: int = 0
    part: int = 0
    num_parts: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, value, least in (
            ("num_clips", self.num_clips, 1),
            ("num_frames", self.num_frames, 1),
            ("context_frames", self.context_frames, 0),
            ("ode_steps", self.ode_steps, 1),
            ("batch_size", self.batch_size, 1),
            ("seed", self.seed, 0),
            ("num_parts", self.num_parts, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be {least} or more, got {value}")
        if self.shift <= 0.0:
            raise ValueError(f"`shift` must be positive, got {self.shift}")
        if not 0 <= self.part < self.num_parts:
            raise ValueError(
                f"`part` must be from 0 to `num_parts` - 1 = {self.num_parts - 1}, got {self.part}"
            )
        if self.guidance != 1.0 and not self.negative_prompt:
            raise ValueError(
                f"`guidance` {self.guidance} needs a `negative_prompt`; give one or set it to 1"
            )

    @property
    def folder(self) -> Path:
        """Return where the files go."""
        return Path(self.output).expanduser()

    @property
    def where(self) -> torch.device:
        """Return the device to compute on."""
        gpu = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(gpu if self.device == "auto" else self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the files."""
        return STORAGE[self.storage]

    @property
    def needs_clips(self) -> bool:
        """Whether the teacher must see something of real clips."""
        return self.teacher == "teacher_forcing" or self.context_frames > 0


class Source:
    """The prompts, and the real clips where the teacher needs them.

    Args:
        module: Says how long a clip may be.
        making: What to make.
        data: Videos with captions, or ``None``.

    Raises:
        ValueError: If something is missing, given twice, or does not fit.
    """

    def __init__(self, module: StreamModule, making: Making, data: VideoFolderData | None) -> None:
        if (data is None) == (making.prompts is None):
            raise ValueError("give either `prompts` or `data`, whose captions are the prompts")
        if data is None and making.needs_clips:
            asked = "context_frames" if making.context_frames else "teacher: teacher_forcing"
            raise ValueError(f"`{asked}` needs real clips; give `data` instead of `prompts`")
        if (data is None) == (making.num_frames is None):
            raise ValueError("give `num_frames` with `prompts`, and leave it out with `data`")
        self.seed = making.seed
        self.clips: VideoClips | None = None
        self.needs_clips = making.needs_clips
        if data is not None:
            self.num_frames = module.codec.latent_frames(data.clip_frames)
            data.prepare_data()
            data.setup_for(module)
            assert isinstance(data.train_rows, VideoClips)
            self.clips = data.train_rows
            self.known = [source.prompt for source in self.clips.sources]
        else:
            assert making.prompts is not None
            assert making.num_frames is not None
            self.num_frames = making.num_frames
            self.known = read_prompts(making.prompts)
        schedule = module.streamer.schedule
        schedule.chunks_of(self.num_frames)
        if making.context_frames:
            schedule.chunks_of(making.context_frames)
        self.count = making.num_clips or len(self.known)

    def __len__(self) -> int:
        """Count the trajectories to make."""
        return self.count

    def prompts(self, rows: Sequence[int]) -> list[str]:
        """Return the prompts of some of them."""
        return [self.known[row % len(self.known)] for row in rows]

    def video(self, rows: Sequence[int]) -> Tensor | None:
        """Return their real clips ``[B, F, 3, H, W]`` in [0, 1], if the teacher needs them."""
        if self.clips is None or not self.needs_clips:
            return None
        draws = [Draw(row % len(self.known), fold_seed(self.seed, "clip", row)) for row in rows]
        return torch.stack([self.clips[draw].video_FCHW for draw in draws]).float() / 255.0


def settings_of(module: StreamModule, making: Making, num_frames: int) -> dict[str, Setting]:
    """Return everything that changes what a file holds."""
    streamer = module.streamer
    return {
        "teacher": making.teacher,
        "weights": weights_fingerprint(streamer.backbone),
        "backbone": streamer.backbone.description,
        "schedule": streamer.schedule.description,
        "cache": streamer.cache.description if making.teacher == "teacher_forcing" else None,
        "reads": making.reads if making.teacher == "teacher_forcing" else None,
        "num_frames": num_frames,
        "context_frames": making.context_frames,
        "ode_steps": making.ode_steps,
        "shift": making.shift,
        "guidance": making.guidance,
        "negative_prompt": making.negative_prompt,
        "storage": making.storage,
        "batch_size": making.batch_size,
        "seed": making.seed,
    }


def check_shard(path: Path, prompts: Sequence[str], settings: dict[str, Setting]) -> None:
    """Refuse to go on beside a file that was made in another way.

    Raises:
        ValueError: Naming the first setting that differs.
    """
    header = read_header(path)
    for name, value in settings.items():
        if header.settings.get(name) != value:
            raise ValueError(
                f"'{path}' was made with {name} {header.settings.get(name)!r}, now it is {value!r}; "
                "give another `output`, or delete the folder"
            )
    if list(header.prompts) != list(prompts):
        raise ValueError(
            f"'{path}' was made of other prompts; give another `output`, or delete the folder"
        )
