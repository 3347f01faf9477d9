"""The plots of a study's report, as SVG: scores against the horizon, motion against identity, attention."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_adastate.metrics import PAN_IDEAL
from lightning_adastate.studies.plan import START
from lightning_adastate.studies.rows import StudyRows, about
from lightning_adastate.studies.tables import Estimate

MOTION, IDENTITY = "displacement", "id_bias"
"""What the scatter plot sets against each other."""

LINES = ("-", "--", "-.", ":")
MARKS = "osD^vP"


class Style(NamedTuple):
    """How a row is drawn: colour by the first axis, line and mark by the others; a start is pale."""

    color: tuple[float, ...]
    line: str
    mark: str
    alpha: float


def styles(rows: StudyRows) -> dict[str, Style]:
    """Return a style for each row."""
    colors: dict[str, int] = {}
    others: dict[tuple[str, ...], int] = {}
    chosen = {}
    for name in rows.names:
        row = rows.first(name)
        first, *rest = [*row.levels.values()] or [row.arm or START]
        color = colors.setdefault(first, len(colors))
        start = row.arm is None
        look = 0 if start else others.setdefault((*rest, row.stage or ""), len(others))
        chosen[name] = Style(
            colormaps["tab10"](color % 10),
            ":" if start else LINES[look % len(LINES)],
            "x" if start else MARKS[look % len(MARKS)],
            0.55 if start else 1.0,
        )
    return chosen


def horizon_plot(
    rows: StudyRows, found: Sequence[Estimate], metrics: Sequence[str], look: Mapping[str, Style]
) -> str:
    """Return every score against the horizon, with its interval as a band."""
    figure, panels = _panels(len(metrics))
    for axes, metric in zip(panels, metrics, strict=True):
        for name in rows.names:
            points = [
                e for e in found if e.row == name and e.metric == metric and e.against is None
            ]
            _curve(axes, points, look[name], name)
        ideal = PAN_IDEAL.get(metric, math.nan)
        if math.isfinite(ideal):
            axes.axhline(ideal, color="grey", linewidth=0.8, linestyle=(0, (1, 3)))
        axes.set(title=metric, xticks=rows.horizons)
        axes.minorticks_off()
    return _svg(figure, panels)


def _curve(axes: Axes, points: Sequence[Estimate], style: Style, name: str) -> None:
    frames = [each.frames for each in points]
    axes.plot(
        frames,
        [each.mean for each in points],
        color=style.color,
        linestyle=style.line,
        marker=style.mark,
        markersize=4,
        alpha=style.alpha,
        label=name,
    )
    low, high = [each.low for each in points], [each.high for each in points]
    if len(points) > 1:
        axes.fill_between(frames, low, high, color=style.color, alpha=0.12 * style.alpha, lw=0)
    else:
        axes.vlines(frames, low, high, color=style.color, alpha=style.alpha)


def scatter_plot(
    rows: StudyRows, found: Sequence[Estimate], look: Mapping[str, Style]
) -> str | None:
    """Return motion against identity at the longest horizon, with intervals and each seed; ``None`` without them."""
    if not {MOTION, IDENTITY} <= set(rows.metrics):
        return None
    frames = rows.horizons[-1]
    at = {(e.row, e.metric): e for e in found if e.frames == frames and e.against is None}
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for name in rows.names:
        motion, identity = at.get((name, MOTION)), at.get((name, IDENTITY))
        if motion is None or identity is None:
            continue
        style = look[name]
        axes.hlines(identity.mean, motion.low, motion.high, color=style.color, alpha=0.6, lw=1)
        axes.vlines(motion.mean, identity.low, identity.high, color=style.color, alpha=0.6, lw=1)
        axes.plot(
            motion.mean,
            identity.mean,
            style.mark,
            color=style.color,
            alpha=style.alpha,
            label=name,
        )
        both = [seed for seed in motion.seeds if seed in identity.seeds]
        axes.scatter(
            [motion.seeds[seed] for seed in both],
            [identity.seeds[seed] for seed in both],
            s=6,
            color=style.color,
            alpha=0.5 * style.alpha,
        )
    axes.plot(1.0, 0.0, "*", color="black", markersize=11, label="ideal")
    axes.set(
        xlabel="displacement (0 is frozen, 1 is right)",
        ylabel="id_bias, RGB distance (0 is the right hero)",
        title=f"motion against identity, {frames} frames; small dots are seeds",
    )
    return _svg(figure, [axes])


def attention_plot(rows: StudyRows, look: Mapping[str, Style]) -> str | None:
    """Return each cached frame's share of the attention; ``None`` if it was not measured."""
    measured = {name: about(rows.first(name)).get("attention") or [] for name in rows.names}
    known = {name: list(shares) for name, shares in measured.items() if isinstance(shares, list)}
    known = {name: shares for name, shares in known.items() if shares}
    if not known:
        return None
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, shares in known.items():
        style = look[name]
        axes.plot(
            [frame["place"] for frame in shares],
            [frame["share"] for frame in shares],
            color=style.color,
            linestyle=style.line,
            alpha=style.alpha,
            label=name,
        )
        for frame in shares:
            mark = "*" if frame["role"] == "anchor" else "."
            axes.plot(frame["place"], frame["share"], mark, color=style.color, alpha=style.alpha)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        xlabel="temporal index, relative to the newest live frame (star: anchor)",
        ylabel="share of the attention to cached frames",
    )
    return _svg(figure, [axes])


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(3, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(4.0 * columns, 3.0 * lines + 0.6), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for spare in grid[count:]:
        spare.set_axis_off()
    return figure, grid[:count]


def _svg(figure: Figure, panels: Sequence[Axes]) -> str:
    """Return a figure as text, with one legend below it."""
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8
    )
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "study"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
