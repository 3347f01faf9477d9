"""The tables of a comparison: means, paired differences, and every score as csv."""

# Shapes: B episodes.

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_adastate.evaluation.arms import Arm
from lightning_adastate.evaluation.bootstrap import paired_bootstrap
from lightning_adastate.metrics import PAN_IDEAL, PanScores

SHOWN = ("slope", "displacement", "loc_err", "shake", "id_bias", "bg_rmse", "drift", "novelty")
"""Scores in the printed table; the csv file has all."""

TABLE_WIDTH = 140
"""Columns of text the tables need."""


def print_tables(arms: Mapping[str, Arm], console: Console) -> None:
    """Print means with standard errors per horizon, then paired differences from the first arm."""
    first, *others = arms
    for frames, scores in arms[first].scores.items():
        title = f"{frames} frames, {len(scores.slope)} paired episodes (mean +- standard error)"
        table = _table(title, "arm")
        table.add_row("[dim]ideal[/dim]", *(f"[dim]{PAN_IDEAL[key]:.2f}[/dim]" for key in SHOWN))
        for name, arm in arms.items():
            table.add_row(name, *(_cell(getattr(arm.scores[frames], key)) for key in SHOWN))
        console.print(table)
        if not others:
            continue
        table = _table(
            f"{frames} frames, difference from {first} [95 % interval over episodes]", ""
        )
        for name in others:
            table.add_row(name, *_differences(arms[name].scores[frames], scores))
        console.print(table)


def wide_console() -> Console:
    """Return a console on which the tables fit, whatever the output is piped into."""
    console = Console()
    return console if console.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)


def _table(title: str, head: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(head)
    for name in SHOWN:
        table.add_column(name, justify="right")
    return table


def _differences(treated: PanScores, control: PanScores) -> list[str]:
    """Return the paired difference of every shown score; bold where the interval excludes zero."""
    cells = []
    for key in SHOWN:
        interval = paired_bootstrap(getattr(treated, key), getattr(control, key))
        sure = interval.low > 0 or interval.high < 0
        text = f"{interval.mean:+.2f}\n[{interval.low:+.2f}, {interval.high:+.2f}]"
        cells.append(f"[bold]{text}[/bold]" if sure else text)
    return cells


def write_csv(arms: Mapping[str, Arm], path: Path) -> None:
    """Write every score of every episode."""
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["arm", "frames", "episode", *PanScores._fields])
        for name, arm in arms.items():
            for frames, scores in arm.scores.items():
                rows = torch.stack(scores, dim=1).tolist()
                for episode, row in enumerate(rows):
                    writer.writerow([name, frames, episode, *(f"{value:.6g}" for value in row)])


def _cell(value_B: Tensor) -> str:
    good = value_B[~value_B.isnan()]
    return f"{good.mean():.2f} +- {good.std() / max(1, len(good)) ** 0.5:.2f}"
