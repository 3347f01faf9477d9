"""The plots of an evaluation: curves over time, motion against consistency, and what separates groups."""

# Shapes: B videos, K times.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lightning_adastate.evaluation.video_groups import VideoGroup
from lightning_adastate.evaluation.video_scores import Series
from lightning_adastate.evaluation.video_tables import SHOWN_VIDEOS, Difference, shown_scores
from lightning_adastate.files import whole_file

PANELS = {
    "difference": "difference to the frame before, 8-bit levels",
    "shift": "global shift, pixels per frame",
    "to_first": "likeness to the first frame",
    "ssim_first": "SSIM to the first frame",
    "luma": "brightness",
    "contrast": "contrast",
    "saturation": "saturation",
    "sharpness": "sharpness",
}
"""What is drawn over time."""

MAX_TIMES = 200
"""Points of a curve; a longer one is averaged."""

SURE = 1.96
"""Standard errors of a 95 % interval."""

DPI = 110

SeriesByName: TypeAlias = Mapping[str, Series]
Color: TypeAlias = tuple[float, ...]


def write_plots(
    folder: Path,
    groups: Sequence[VideoGroup],
    scored: Sequence[Mapping[str, Tensor]],
    compared: Sequence[Difference],
    series: Sequence[Sequence[SeriesByName]],
) -> list[str]:
    """Write the plots as PNG into ``folder``; return their names.

    ``curves.png``: a line per group, the mean of its videos with a 95 % interval; a few videos of one group have
    lines of their own. ``motion_consistency.png``: a dot per video. ``differences.png``: every group's mean
    difference from the first, in standard deviations over videos, if there are several groups of several videos.
    """
    drawn = {
        "curves.png": curves_figure(groups, series),
        "motion_consistency.png": motion_figure(groups, scored),
    }
    if any(each.intervals for each in compared):
        drawn["differences.png"] = differences_figure(scored, compared)
    for name, figure in drawn.items():
        with whole_file(folder / name) as path:
            figure.savefig(path, format="png", dpi=DPI)
    return list(drawn)


# -- curves -----------------------------------------------------------------------------------------


def curves_figure(
    groups: Sequence[VideoGroup], series: Sequence[Sequence[SeriesByName]]
) -> Figure:
    """Return eight panels of curves over time."""
    lines = _lines(groups, series)
    figure = Figure(figsize=(14, 6), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True).ravel()
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        for color, videos in enumerate(lines.values()):
            _draw_mean(axes, [video[name] for video in videos], color)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.margins(x=0.01)
    for axes in panels[4:]:
        axes.set_xlabel("seconds", fontsize=9)
    _legend_below(figure, list(lines))
    return figure


def _legend_below(figure: Figure, names: Sequence[str], mark: str = "-") -> None:
    """Name the lines, or dots, below all panels."""
    marks = [
        figure.axes[0].plot([], [], mark, color=_color(number), label=name)[0]
        for number, name in enumerate(names)
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=min(4, len(names)), fontsize=9)


def _lines(
    groups: Sequence[VideoGroup], series: Sequence[Sequence[SeriesByName]]
) -> dict[str, list[SeriesByName]]:
    """Return the videos behind each line: those of a group, or the few videos of the only one."""
    if len(groups) == 1 and len(groups[0].files) <= SHOWN_VIDEOS:
        return {name: [one] for name, one in zip(groups[0].file_names, series[0], strict=True)}
    counts = [len(group.files) for group in groups]
    names = [f"{g.name} ({n} video{'s' * (n > 1)})" for g, n in zip(groups, counts, strict=True)]
    return {name: list(videos) for name, videos in zip(names, series, strict=True)}


def _draw_mean(axes: Axes, videos: Sequence[Series], color: int) -> None:
    """Draw the mean of videos that are that long, and its interval."""
    videos = [video for video in videos if len(video.value) and not video.value.isnan().all()]
    if not videos:
        return
    seconds = _times(videos)
    value_BK = torch.stack([_averaged(video, seconds) for video in videos])
    there = ~value_BK.isnan()
    count = there.sum(0)
    mean = value_BK.nanmean(0)
    shown = count > 0
    axes.plot(seconds[shown], mean[shown], color=_color(color), linewidth=1.4)
    enough = count > 1
    if not enough.any():
        return
    spread = ((value_BK - mean).square().nansum(0) / (count - 1).clamp(min=1)).sqrt()
    half = SURE * spread / count.clamp(min=1).sqrt()
    axes.fill_between(
        seconds[enough].tolist(),
        (mean - half)[enough].tolist(),
        (mean + half)[enough].tolist(),
        color=_color(color),
        alpha=0.18,
        linewidth=0,
    )


def _times(videos: Sequence[Series]) -> Tensor:
    """Return the times at which videos are averaged, ``[K]``: those of the one with the most, or fewer."""
    start = min(float(video.seconds[0]) for video in videos)
    end = max(float(video.seconds[-1]) for video in videos)
    steps = [float(video.seconds.diff().mean()) for video in videos if len(video.seconds) > 1]
    width = max(min(steps, default=1.0), (end - start) / MAX_TIMES)
    return start + width * torch.arange(round((end - start) / width) + 1)


def _averaged(video: Series, times_K: Tensor) -> Tensor:
    """Return the means of what is nearest to each time, ``[K]``; NaN where nothing is."""
    width = times_K.diff().mean() if len(times_K) > 1 else torch.ones(())
    place = ((video.seconds - times_K[0]) / width).round().long().clamp(0, len(times_K) - 1)
    count = torch.zeros(len(times_K)).index_add(0, place, torch.ones(len(place)))
    total = torch.zeros(len(times_K)).index_add(0, place, video.value)
    return total / torch.where(count > 0, count, torch.nan)


# -- scores -----------------------------------------------------------------------------------------


def motion_figure(groups: Sequence[VideoGroup], scored: Sequence[Mapping[str, Tensor]]) -> Figure:
    """Return a dot per video, and a cross per group's mean: motion against consistency, and against drift."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, name, title in (
        (panels[0], "to_first", "likeness of the last third to the first frame"),
        (panels[1], "drift_saturation", "drift of the saturation"),
    ):
        for color, scores in enumerate(scored):
            motion, other = 255.0 * (1.0 - scores["flicker"]), scores[name]
            axes.scatter(motion, other, s=18, color=_color(color), alpha=0.6, linewidths=0)
            if len(motion) > 1:
                mean = motion.mean().item(), other.nanmean().item()
                axes.scatter(*mean, s=130, marker="X", color=_color(color), edgecolors="black")
        axes.set_xlabel("motion: mean difference to the frame before, 8-bit levels", fontsize=9)
        axes.set_ylabel(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.margins(0.06)
    note = "further right moves more; a frozen video is at 0 with likeness 1 and drift 0"
    figure.suptitle(note, fontsize=9)
    _legend_below(figure, [group.name for group in groups], "o")
    return figure


def differences_figure(
    scored: Sequence[Mapping[str, Tensor]], compared: Sequence[Difference]
) -> Figure:
    """Return every score's difference from the first group with its 95 % interval, in standard deviations."""
    names = [n for n in shown_scores(scored[0]) if any(n in each.intervals for each in compared)]
    figure = Figure(figsize=(8, 0.27 * len(names) * max(1, len(compared)) ** 0.5 + 1.6))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    units = {name: _spread([scores[name] for scores in scored]) for name in names}
    for number, each in enumerate(compared):
        offset = (number - (len(compared) - 1) / 2) * 0.6 / len(compared)
        _draw_intervals(axes, each, units, _color(number + 1), offset)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.25)
    axes.set_xlabel(
        "difference in standard deviations over all videos, 95 % interval; filled: it excludes 0",
        fontsize=8,
    )
    title = f"difference from {compared[0].control}"
    if len(compared) == 1:
        title = f"{compared[0].group} - {compared[0].control}"
    axes.set_title(f"{title}, {compared[0].pairing}", fontsize=10)
    if len(compared) > 1:
        marks = [
            axes.plot([], [], "o-", color=_color(number + 1), label=each.group)[0]
            for number, each in enumerate(compared)
        ]
        axes.legend(handles=marks, fontsize=8)
    return figure


def _draw_intervals(
    axes: Axes, each: Difference, units: Mapping[str, float], color: Color, offset: float
) -> None:
    """Draw the interval of every score in its unit, row by row; a dot is filled where it excludes 0."""
    for row, (name, unit) in enumerate(units.items()):
        interval = each.intervals.get(name)
        if interval is None or not unit > 0:
            continue
        mean, low, high = (value / unit for value in interval)
        face = color if interval.sure else "white"
        axes.plot([low, high], [row + offset] * 2, color=color, linewidth=1.6)
        axes.plot(mean, row + offset, "o", markersize=5, color=color, markerfacecolor=face)


def _spread(values: Sequence[Tensor]) -> float:
    """Return the standard deviation over the videos of all groups; 0 if there is none."""
    every = torch.cat([value[~value.isnan()] for value in values])
    return every.std().item() if len(every) > 1 else 0.0


def _color(number: int) -> Color:
    return colormaps["tab10"](number % 10)
