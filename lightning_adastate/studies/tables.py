"""The tables of a study: every mean with its interval, differences from a baseline and from the start."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table as RichTable
from torch import Tensor

from lightning_adastate.evaluation.bootstrap import Interval, seed_bootstrap
from lightning_adastate.studies.rows import StudyRows

SHOWN = (
    "displacement",
    "id_bias",
    "retention",
    "cycles",
    "hero",
    "slope",
    "loc_err",
    "shake",
    "bg_rmse",
    "novelty",
)
"""Scores in the tables where the study names none and they exist."""


MOST_DIGITS = 4


class Estimate(NamedTuple):
    """A mean, or a paired mean difference, of one row at one horizon.

    Args:
        row: The row.
        against: What it is the difference from; ``None`` is the mean itself.
        frames: The horizon.
        metric: The score.
        mean: Over seeds and episodes.
        low: Lower end of the 95 % interval.
        high: Its upper end.
        seeds: Mean of each training seed, by seed; one without a name was not trained.
        episodes: Episodes.
    """

    row: str
    against: str | None
    frames: int
    metric: str
    mean: float
    low: float
    high: float
    seeds: dict[str, float]
    episodes: int

    @property
    def interval(self) -> Interval:
        """Return the mean with its interval."""
        return Interval(self.mean, self.low, self.high)

    def __str__(self) -> str:
        """Write mean and interval, with signs if it is a difference."""
        sign, width = "+" if self.against else "", self.high - self.low
        form = f"{sign}g"
        if width > 1e-9:  # two digits of the interval's width: more would say nothing
            form = f"{sign}.{min(max(1 - math.floor(math.log10(width)), 0), MOST_DIGITS)}f"
        return self.interval.text(form)


def estimate(
    rows: StudyRows, row: str, frames: int, metric: str, against: str | None = None
) -> Estimate | None:
    """Return a row's mean, or its paired difference from another's; ``None`` if too little is there.

    A row that was not trained stands against every seed of the other. Else seeds that both have are compared.
    """
    seeds, value_SE = rows.table(row, frames, metric)
    if against is not None:
        seeds, value_SE = _difference((seeds, value_SE), rows.table(against, frames, metric))
    try:
        interval = seed_bootstrap(value_SE)
    except ValueError:  # fewer than two episodes have this score
        return None
    means = {
        "" if seed is None else str(seed): value
        for seed, value in zip(seeds, value_SE.nanmean(1).tolist(), strict=True)
    }
    return Estimate(row, against, frames, metric, *interval, means, value_SE.shape[1])


def _difference(
    treated: tuple[list[int | None], Tensor], control: tuple[list[int | None], Tensor]
) -> tuple[list[int | None], Tensor]:
    """Return the seeds of both and the difference ``[S, E]``."""
    (seeds, value), (others, control_value) = treated, control
    if seeds == [None] or others == [None]:
        return (others if seeds == [None] else seeds), value - control_value
    both = [seed for seed in seeds if seed in others]
    first = value[[seeds.index(seed) for seed in both]]
    return both, first - control_value[[others.index(seed) for seed in both]]


def estimates(rows: StudyRows, baseline: str) -> list[Estimate]:
    """Return all means, the differences from the baseline, and those from each row's own start."""
    found = []
    for name in rows.names:
        against = [None, baseline if name != baseline else None, rows.start_of(name)]
        for other in dict.fromkeys(against):
            for frames in rows.horizons:
                for metric in rows.metrics:
                    found.append(estimate(rows, name, frames, metric, other))
    return [each for each in found if each is not None]


# -- as text --------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class StudyTable:
    """A table for people.

    Args:
        title: Above it.
        frames: The horizon.
        head: Names of the columns.
        rows: As many cells each.
    """

    title: str
    frames: int
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [_line(self.head), _line(["---"] * len(self.head))]
        lines += [_line([f"**{c.text}**" if c.bold else c.text for c in row]) for row in self.rows]
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n"

    def html(self) -> str:
        """Return it as HTML."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.head)
        body = "".join(
            "<tr>"
            + "".join(
                f"<td{' class=sure' if c.bold else ''}>{_two_lines(html.escape(c.text))}</td>"
                for c in row
            )
            + "</tr>\n"
            for row in self.rows
        )
        return (
            f"<h3>{html.escape(self.title)}</h3>\n<div class=wide><table><thead><tr>{head}</tr></thead>\n"
            f"<tbody>{body}</tbody></table></div>\n"
        )

    def rich(self) -> RichTable:
        """Return it for a terminal."""
        table = RichTable(title=self.title, title_justify="left")
        for index, name in enumerate(self.head):
            table.add_column(name, justify="left" if index == 0 else "right")
        for row in self.rows:
            cells = [c.text.replace(" [", "\n[").replace("[", "\\[") for c in row]
            marks = [c.bold for c in row]
            table.add_row(
                *(f"[bold]{t}[/bold]" if b else t for t, b in zip(cells, marks, strict=True))
            )
        return table


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _two_lines(text: str) -> str:
    return text.replace(" [", "<br><small>[") + ("</small>" if " [" in text else "")


def tables(
    rows: StudyRows,
    found: Sequence[Estimate],
    baseline: str,
    metrics: Sequence[str],
    horizons: Sequence[int],
) -> list[StudyTable]:
    """Return for every horizon the means, the differences from the baseline, and those from the start."""
    made = []
    for frames in horizons:
        title = f"{frames} frames: mean [95 % interval over seeds and episodes]"
        made.append(_table(title, rows, found, frames, metrics, {n: None for n in rows.names}))
        others = {name: baseline for name in rows.names if name != baseline}
        if others:
            title = f"{frames} frames: difference from {baseline} (paired; bold excludes 0)"
            made.append(_table(title, rows, found, frames, metrics, others))
        starts = {n: s for n in rows.names if (s := rows.start_of(n)) not in (None, baseline)}
        if starts:
            title = f"{frames} frames: difference from the weights it started from (paired; bold excludes 0)"
            made.append(_table(title, rows, found, frames, metrics, starts))
    return made


def _table(
    title: str,
    rows: StudyRows,
    found: Sequence[Estimate],
    frames: int,
    metrics: Sequence[str],
    against: Mapping[str, str | None],
) -> StudyTable:
    by_key = {(each.row, each.against, each.frames, each.metric): each for each in found}
    lines = []
    for name, other in against.items():
        cells = [by_key.get((name, other, frames, metric)) for metric in metrics]
        known = next((cell for cell in cells if cell is not None), None)
        lines.append(
            [
                Cell(name),
                Cell(_seeds(known)),
                *(
                    Cell("-") if c is None else Cell(str(c), c.interval.sure and bool(other))
                    for c in cells
                ),
            ]
        )
    return StudyTable(title, frames, ["arm", "seeds x episodes", *metrics], lines)


def _seeds(known: Estimate | None) -> str:
    if known is None:
        return "-"
    trained = [seed for seed in known.seeds if seed]
    return f"{len(trained) or 'not trained,'} x {known.episodes}".replace(", x", " x")


def plain(value: float) -> float | None:
    """Return a number that JSON has; NaN is ``None``."""
    return None if math.isnan(value) else value
