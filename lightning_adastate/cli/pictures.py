"""What people look at after a comparison: a video side by side, a contact sheet, and curves over time."""

# Shapes: B episodes, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from lightning_adastate.cli.arm import Arm
from lightning_adastate.video import VideoWriter, upscale, watchable_scale
from lightning_adastate.worlds import PanEpisodes, PanWorld, decode_pan, wrap

SHOWN_EPISODES = 4
SHEET_COLUMNS = 10
GAP = 6
"""Pixels between pictures."""


def write_pictures(
    truth: PanEpisodes,
    arms: Mapping[str, Arm],
    world: PanWorld,
    folder: Path,
    *,
    num_given: int,
) -> None:
    """Write ``comparison.mp4``, ``contact_sheet.png`` and ``curves.png`` into ``folder``."""
    videos = {"truth": truth.video_BFCHW, **{name: arm.video_BFCHW for name, arm in arms.items()}}
    prompts = truth.prompts[:SHOWN_EPISODES]
    write_side_by_side(videos, prompts, folder / "comparison.mp4")
    write_contact_sheet(videos, truth.prompts[0], folder / "contact_sheet.png")
    write_curves(truth, arms, world, folder / "curves.png", num_given=num_given)


def write_side_by_side(videos: Mapping[str, Tensor], prompts: Sequence[str], path: Path) -> None:
    """Write one video: a column per arm, a row per prompt, names on top."""
    scale = watchable_scale(next(iter(videos.values())).shape[3], smallest=96)
    columns = []
    for name, video in videos.items():
        rows = [upscale(video[i].float().cpu(), scale) for i in range(len(prompts))]
        width = rows[0].shape[-1]
        head = label(name, width, 28).expand(len(rows[0]), -1, -1, -1)
        gap = torch.ones(len(rows[0]), 3, GAP, width)
        stack = [head]
        for row in rows:
            stack += [row, gap]
        columns.append(torch.cat(stack, dim=2))
        columns.append(torch.ones(*columns[-1].shape[:3], GAP))
    side = torch.cat(
        [label(f'"{prompt}"', 260, columns[0].shape[2] // len(prompts)) for prompt in prompts], 1
    )
    side = torch.nn.functional.pad(side, (0, 0, 0, columns[0].shape[2] - side.shape[1]), value=1.0)
    columns.insert(0, side.expand(len(columns[0]), -1, -1, -1))
    whole = torch.cat(columns, dim=3)
    with VideoWriter(path, fps=8, chunk_frames=8) as writer:
        writer.append(whole)


def write_contact_sheet(videos: Mapping[str, Tensor], prompt: str, path: Path) -> None:
    """Write one picture: a row per arm, columns over time, of the first episode."""
    frames = next(iter(videos.values())).shape[1]
    picks = np.linspace(0, frames - 1, SHEET_COLUMNS).round().astype(int)
    figure = Figure(figsize=(1.3 * SHEET_COLUMNS + 1.2, 0.8 * len(videos) + 0.8), dpi=110)
    grid = figure.subplots(len(videos), SHEET_COLUMNS, squeeze=False)
    for row, (name, video) in enumerate(videos.items()):
        for column, pick in enumerate(picks):
            axes = grid[row, column]
            axes.imshow(video[0, pick].permute(1, 2, 0).clamp(0, 1).cpu().numpy())
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(f"frame {pick}", fontsize=9)
            if column == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    figure.suptitle(f'"{prompt}"', fontsize=11)
    _save(figure, path)


def write_curves(
    truth: PanEpisodes,
    arms: Mapping[str, Arm],
    world: PanWorld,
    path: Path,
    *,
    num_given: int,
) -> None:
    """Write how far the camera went, where the hero's colour went and how the background fared."""
    figure = Figure(figsize=(13, 3.6), dpi=110)
    way, color, background = figure.subplots(1, 3)
    frames = truth.video_BFCHW.shape[1]
    time = torch.arange(frames, dtype=torch.float64)
    expected = truth.truth.velocity_B[:, None].abs() * time
    way.plot(time, expected.mean(0), "k--", label="prompted")
    for name, arm in arms.items():
        reading = decode_pan(world, arm.video_BFCHW)
        gone = wrap(reading.position_BF - truth.truth.start_B[:, None], world.num_columns)
        sign = truth.truth.velocity_B.sign()[:, None]
        error = (reading.color_BF3 - truth.truth.color_B3[:, None]).square().sum(-1).sqrt()
        way.plot(time, (sign * gone).mean(0), label=name)
        color.plot(time, error.mean(0), label=name)
        background.plot(time, reading.residual_BF.mean(0), label=name)
    way.set(title="way of the camera", ylabel="pixels")
    color.set(title="hero: distance from its true colour", ylabel="RGB distance")
    background.set(title="background: distance from the map", ylabel="RMSE")
    for axes in (way, color, background):
        axes.axvline(20.5, color="grey", linewidth=0.8, linestyle=":")
        axes.axvspan(0, num_given - 0.5, color="grey", alpha=0.2)
        axes.set_xlabel("frame (dotted: training horizon)")
    way.legend(fontsize=8)
    figure.tight_layout()
    _save(figure, path)


def label(text: str, width: int, height: int) -> Tensor:
    """Return ``text`` as a picture ``[3, height, width]``, black on white."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=9)
    canvas.draw()
    pixels = torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return pixels.permute(2, 0, 1).float() / 255.0


def _save(figure: Figure, path: Path) -> None:
    with mpl.rc_context({"savefig.bbox": "tight"}):
        FigureCanvasAgg(figure).print_png(str(path))
