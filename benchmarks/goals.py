"""The goals for one H200 at 480 x 832, and what was measured of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rows import Row


class Goal(NamedTuple):
    """A row to look for, a number of it and what it should be."""

    name: str
    wanted: float
    is_least: bool
    find: Callable[[Sequence[Row]], float | None]


def _best(
    rows: Sequence[Row], scope: str, part: str, cached: int | None, of: Callable[[Row], float]
) -> float | None:
    """Return the largest of a number among the rows of Wan 1.3B on an H200 that fit."""
    found = [
        of(row)
        for row in rows
        if row.model in ("1.3B", "Wan VAE 96")
        and _is_machine(row)
        and row.scope == scope
        and part in row.path
        and "chunk " not in row.path
        and row.cached_frames == cached
        and (scope != "DiT" or row.anchor == "state")
    ]
    return max(found) if found else None


def _is_machine(row: Row) -> bool:
    """Whether it is the GPU that the goals are for."""
    return "H200" in row.device


def _share(cached: int) -> Callable[[Sequence[Row]], float | None]:
    return lambda rows: _best(rows, "DiT", "", cached, lambda row: row.share or 0.0)


def _fps(part: str) -> Callable[[Sequence[Row]], float | None]:
    return lambda rows: _best(rows, "end to end", part, 6, lambda row: row.fps or 0.0)


def _decode(rows: Sequence[Row]) -> float | None:
    slowest = [
        _best(rows, "VAE", path, None, lambda row: -row.ms) for path in ("fast", "compiled")
    ]
    found = [-value for value in slowest if value is not None]
    return min(found) if found else None


def _growth(rows: Sequence[Row]) -> float | None:
    late = [row for row in rows if "chunk " in row.path and _is_machine(row)]
    return late[-1].ms / late[0].ms if len(late) == 2 else None


GOALS = (
    Goal("DiT, 3 cached + state, share of the bound", 0.65, True, _share(3)),
    Goal("DiT, 9 cached + state, share of the bound", 0.65, True, _share(9)),
    Goal("exact VAE, ms per 12 frames", 150, False, _decode),
    Goal("end to end, 6 cached, exact VAE, FPS", 30, True, _fps("exact")),
    Goal("end to end, 6 cached, preview, FPS", 45, True, _fps("tiny")),
    Goal("a late chunk over chunk 20 (the goal is for chunk 10,000)", 1.02, False, _growth),
)


def print_goals(rows: Sequence[Row]) -> dict[str, dict[str, object]]:
    """Print and return what is wanted, what was found and whether it is enough."""
    table = Table(title="goals: 1.3B on one H200 at 480 x 832, 4 steps and a clean pass")
    for column in ("goal", "wanted", "found", ""):
        table.add_column(column, justify="right" if column in ("wanted", "found") else "left")
    made: dict[str, dict[str, object]] = {}
    for goal in GOALS:
        value = goal.find(rows)
        met = None
        if value is not None:
            met = value >= goal.wanted if goal.is_least else value <= goal.wanted
        verdict = "not run" if met is None else "met" if met else "missed"
        sign = ">=" if goal.is_least else "<="
        found = "-" if value is None else f"{value:.3g}"
        table.add_row(goal.name, f"{sign} {goal.wanted:g}", found, verdict)
        made[goal.name] = {"wanted": goal.wanted, "found": value, "verdict": verdict}
    Console().print(table)
    return made
