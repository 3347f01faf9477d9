"""What people look at after a comparison: a video side by side, a contact sheet, and curves over time."""

# Shapes: B episodes, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure

from lightning_adastate.evaluation.arms import Arm
from lightning_adastate.media.pictures import contact_sheet, label_picture, side_by_side
from lightning_adastate.media.video import VideoWriter
from lightning_adastate.metrics.pan_identity import retention_per_cycle
from lightning_adastate.worlds import PanEpisodes, PanWorld, wrap

SHOWN_EPISODES = 4
"""Episodes in the side-by-side video."""

SCALE = 12
"""Every pixel of the toy world becomes a square of this size."""


def write_pictures(
    truth: PanEpisodes,
    arms: Mapping[str, Arm],
    world: PanWorld,
    folder: Path,
    *,
    num_given: int,
) -> tuple[str, ...]:
    """Write a side-by-side video, a contact sheet and curves into ``folder``; return their names."""
    videos = [truth.video_BFCHW, *(arm.video_BFCHW.float().cpu() for arm in arms.values())]
    names = ["truth", *arms]
    rows = []
    for episode, prompt in enumerate(truth.prompts[:SHOWN_EPISODES]):
        row = side_by_side([video[episode] for video in videos], names, scale=SCALE)
        head = label_picture(f'"{prompt}"', row.shape[3])
        rows += [head.expand(len(row), -1, -1, -1), row]
    with VideoWriter(folder / "comparison.mp4", fps=8, chunk_frames=8) as writer:
        writer.append(torch.cat(rows, dim=2))
    contact_sheet(
        folder / "contact_sheet.png",
        [video[0] for video in videos],
        names,
        num_columns=10,
        title=f'"{truth.prompts[0]}"',
    )
    write_curves(truth, arms, world, folder / "curves.png", num_given=num_given)
    files = ("comparison.mp4", "contact_sheet.png", "curves.png")
    if not any(retention_per_cycle(arm.cycles) for arm in arms.values()):
        return files
    write_retention_curves(arms, folder / "retention.png")
    return (*files, "retention.png")


def write_retention_curves(arms: Mapping[str, Arm], path: Path, *, least: int = 5) -> None:
    """Write the share of streams that keep their hero over the first, second, ... hide.

    Args:
        arms: Streams whose hero hides.
        path: Where to.
        least: A hide that fewer streams have is not drawn.
    """
    figure = Figure(figsize=(6, 3.4), dpi=120)
    axes = figure.subplots()
    for name, arm in arms.items():
        rows = [row for row in retention_per_cycle(arm.cycles) if row[1] >= least]
        hides = range(1, len(rows) + 1)
        total = sum(len(each) for each in arm.cycles)
        shares = [kept / count for kept, count in rows]
        axes.plot(hides, shares, marker=".", label=f"{name} ({total} hides)")
    axes.set(
        title="streams whose hero came back as it was",
        xlabel=f"hide of a stream (those that {least} or more streams have)",
        ylim=(-0.03, 1.03),
    )
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, format="png")


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
        reading = arm.reading
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
    figure.savefig(path, format="png")
