"""The tables of a comparison: means, paired differences, and every score as csv."""

# Shapes: B episodes.

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_adastate.evaluation.arms import Arm
from lightning_adastate.evaluation.bootstrap import paired_bootstrap
from lightning_adastate.evaluation.swap_probe import SwapReading
from lightning_adastate.metrics import PAN_IDEAL, PanScores
from lightning_adastate.metrics.pan_identity import retention_per_cycle

SHOWN = ("slope", "displacement", "loc_err", "shake", "id_bias", "bg_rmse", "drift", "novelty")
"""Scores in the printed table; the csv file has all."""

SHOWN_HIDING = ("hero", "retention", "cycles")
"""Those that a hero who hides has besides."""

SHOWN_CYCLES = 10
"""Hides in the printed table; the csv file has all."""


def print_tables(arms: Mapping[str, Arm], console: Console) -> None:
    """Print means with standard errors per horizon, then paired differences from the first arm."""
    first, *others = arms
    shown = shown_scores(arms)
    for frames, scores in arms[first].scores.items():
        title = f"{frames} frames, {len(scores.slope)} paired episodes (mean +- standard error)"
        table = _table(title, "arm", shown)
        table.add_row("[dim]ideal[/dim]", *(f"[dim]{PAN_IDEAL[key]:.2f}[/dim]" for key in shown))
        for name, arm in arms.items():
            table.add_row(name, *(_cell(getattr(arm.scores[frames], key)) for key in shown))
        console.print(table)
        if not others:
            continue
        table = _table(
            f"{frames} frames, difference from {first} [95 % interval over episodes]", "", shown
        )
        for name in others:
            table.add_row(name, *_differences(arms[name].scores[frames], scores, shown))
        console.print(table)
    for extra in (retention_table(arms), swap_table(arms)):
        if extra is not None:
            console.print(extra)


def shown_scores(arms: Mapping[str, Arm]) -> tuple[str, ...]:
    """Return the scores that the table shows: those of hides where some hero hid."""
    hides = any(arm.cycles for arm in arms.values())
    return (*SHOWN, *SHOWN_HIDING) if hides else SHOWN


def retention_table(arms: Mapping[str, Arm]) -> Table | None:
    """Return how many streams kept their hero over the first, second, ... hide; ``None`` if none hid."""
    rows = {name: retention_per_cycle(arm.cycles) for name, arm in arms.items()}
    most = max((len(row) for row in rows.values()), default=0)
    if not most:
        return None
    table = Table(
        title="streams whose hero came back as it was, of those with that many hides",
        title_justify="left",
    )
    table.add_column("hide")
    columns = range(min(most, SHOWN_CYCLES))
    for index in columns:
        table.add_column(str(index + 1), justify="right")
    for name, row in rows.items():
        cells = [f"{kept} / {count}" for kept, count in row[:SHOWN_CYCLES]]
        table.add_row(name, *cells, *[""] * (len(columns) - len(cells)))
    return table


def swap_table(arms: Mapping[str, Arm]) -> Table | None:
    """Return what swapping the anchors' contents showed; ``None`` if nothing was swapped."""
    swapped = {name: arm.swap for name, arm in arms.items() if arm.swap is not None}
    if not swapped:
        return None
    depth = max(len(each.readings) for each in swapped.values())
    table = Table(
        title="anchor contents swapped between streams: share of the donor's in the content (read) and the hero "
        "that comes back (hero); of the donor's (keep) and the window's (take) in the contents",
        title_justify="left",
    )
    heads = ("", "read 1", "keep 1", "take 1", f"keep {depth}", f"take {depth}", "hero", "streams")
    for head in heads:
        table.add_column(head, justify="right" if head else "left")
    for name, each in swapped.items():
        first, last = each.readings[0], each.readings[-1]
        shares = (first.read, first.keep, first.take, last.keep, last.take, each.hero.donor)
        table.add_row(name, *(f"{share:.2f}" for share in shares), str(each.num_heroes))
    return table


def _table(title: str, head: str, shown: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(head)
    for name in shown:
        table.add_column(name, justify="right")
    return table


def _differences(treated: PanScores, control: PanScores, shown: Sequence[str]) -> list[str]:
    """Return the paired difference of every shown score; bold where the interval excludes zero."""
    cells = []
    for key in shown:
        pair = getattr(treated, key), getattr(control, key)
        if int((~(pair[0] - pair[1]).isnan()).sum()) < 2:
            cells.append("too few")
            continue
        interval = paired_bootstrap(*pair)
        text = interval.text("+.2f", "\n")
        cells.append(f"[bold]{text}[/bold]" if interval.sure else text)
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


def write_retention(arms: Mapping[str, Arm], path: Path) -> None:
    """Write every hide of every stream: when it began, when the hero came back if it did, and whether as it was."""
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["arm", "episode", "cycle", "hidden", "returned", "kept"])
        for name, arm in arms.items():
            for episode, cycles in enumerate(arm.cycles):
                for index, one in enumerate(cycles):
                    back = "" if one.returned is None else one.returned
                    writer.writerow([name, episode, index + 1, one.hidden, back, int(one.kept)])


def write_swaps(arms: Mapping[str, Arm], path: Path) -> None:
    """Write the shares of every chunk after a swap."""
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["arm", *SwapReading._fields])
        for name, arm in arms.items():
            for reading in () if arm.swap is None else arm.swap.readings:
                writer.writerow([name, *(f"{value:.6g}" for value in reading)])


def _cell(value_B: Tensor) -> str:
    good = value_B[~value_B.isnan()]
    if not len(good):
        return "-"
    return f"{good.mean():.2f} +- {good.std() / max(1, len(good)) ** 0.5:.2f}"
