"""A teacher's ODE solved on prompts or clips: the states a few-step generator starts from, as files."""

# Shapes: B batch, K states, F frames, C channels, H W height / width (of pixels in video_*, of latents elsewhere).

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from lightning_adastate.data.trajectory_shards import shard_path, write_shard
from lightning_adastate.files import output_folder
from lightning_adastate.generation.interrupt import StopRequest
from lightning_adastate.generation.trajectory_plan import Making, Source, check_shard, settings_of
from lightning_adastate.losses import Velocity
from lightning_adastate.training import StreamModule
from lightning_adastate.training.parallel import (
    causal_mask,
    guided,
    masked_velocity,
    ode_sigmas,
    solve_ode,
    stream_sigmas,
)
from lightning_adastate.training.randomness import generator_of


@torch.no_grad()
def make_batch(
    module: StreamModule,
    making: Making,
    prompts: Sequence[str],
    real: Tensor | None,
    *,
    num_frames: int,
    first: int,
) -> Tensor:
    """Return the states of one batch at the schedule's levels, and the end, ``[B, K + 1, F, C, H, W]``.

    The noise of a clip is a pure function of the seed and of its place in the whole list.

    Args:
        module: The teacher, with the generator's schedule.
        making: How.
        prompts: One per clip.
        real: Real clips' latents, where the teacher needs them.
        num_frames: Latent frames of a clip.
        first: Place of the first clip in the whole list.
    """
    shape = (num_frames, *module.codec.latent_shape(*module.frame_size))
    noise = torch.stack(
        [
            torch.randn(
                shape,
                generator=generator_of(making.seed, "trajectory", first + row),
                dtype=torch.float32,
            )
            for row in range(len(prompts))
        ]
    ).to(module.device)
    if making.context_frames:
        assert real is not None
        noise[:, : making.context_frames] = real[:, : making.context_frames]
    stops = stream_sigmas(module.streamer.schedule)
    return solve_ode(
        _velocity(module, making, prompts, real, num_frames),
        noise,
        ode_sigmas(making.ode_steps, making.shift, stops),
        stops,
        making.context_frames,
    )


def _velocity(
    module: StreamModule, making: Making, prompts: Sequence[str], real: Tensor | None, frames: int
) -> Velocity:
    """Bind prompts, guidance and the past to the teacher."""
    streamer, mask, clean = module.streamer, None, None
    if making.teacher == "teacher_forcing":
        mask, clean = causal_mask(streamer, frames, "clean", making.reads), real
    texts = [list(prompts)]
    if making.guidance != 1.0 and making.negative_prompt is not None:
        texts.append([making.negative_prompt] * len(prompts))
    positive, *negative = (
        masked_velocity(streamer.backbone, module.encode_text(text), mask, clean) for text in texts
    )
    return guided(positive, negative[0] if negative else None, making.guidance)


def make_trajectories(module: StreamModule, making: Making, source: Source) -> int:
    """Make what is not there yet and return the exit code: 0, or 130 if it was stopped by hand.

    Stopping (Ctrl-C, SIGTERM) finishes the batch at work; the same command goes on from there.

    Raises:
        ValueError: If the folder holds trajectories of other settings, or the clips do not fit.
    """
    with output_folder(making.folder):
        return _make(module, making, source)


def _make(module: StreamModule, making: Making, source: Source) -> int:
    settings = settings_of(module, making, source.num_frames)
    sigmas = stream_sigmas(module.streamer.schedule)
    starts = range(0, len(source), making.batch_size)
    mine = starts[making.part :: making.num_parts]
    columns = (
        TextColumn("trajectories"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("batches"),
        TimeRemainingColumn(),
    )
    made = 0
    with StopRequest() as stop, Progress(*columns) as progress:
        for first in progress.track(mine, len(mine), description=""):
            path = shard_path(making.folder, first)
            rows = range(first, min(first + making.batch_size, len(source)))
            prompts = source.prompts(rows)
            if path.exists():
                check_shard(path, prompts, settings)
                continue
            video = source.video(rows)
            real = None if video is None else module.codec.encode(video.to(module.device))
            states = make_batch(
                module, making, prompts, real, num_frames=source.num_frames, first=first
            )
            past = real if making.teacher == "teacher_forcing" else None
            write_shard(
                path,
                states.to(making.dtype),
                sigmas,
                prompts,
                context_NFCHW=None if past is None else past.to(making.dtype),
                settings=settings,
            )
            made += len(rows)
            if stop.asked:
                break
    there = len(list(making.folder.glob("trajectories-*.safetensors")))
    print(f"{made} trajectories made; '{making.folder}' has {there} of {len(starts)} files")
    return stop.exit_code
