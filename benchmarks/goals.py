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


LATE_CHUNK, EARLY_CHUNK = 10_000, 20


def _rows(rows: Sequence[Row], scope: str) -> list[Row]:
    """Return the rows of Wan 1.3B on an H200, and those of the network only where AdaState's frame is live."""
    return [
        row
        for row in rows
        if row.scope == scope
        and "H200" in row.device
        and (scope == "VAE" or row.anchor == "state")
        and row.model.startswith("Wan VAE 96" if scope == "VAE" else "1.3B")
    ]


def _chunk_of(row: Row) -> int | None:
    """Return the number of the chunk that a row of a long stream is about."""
    _, is_late, number = row.path.rpartition(", chunk ")
    return int(number) if is_late else None


def _share(cached: int) -> Callable[[Sequence[Row]], float | None]:
    def find(rows: Sequence[Row]) -> float | None:
        steady = (row for row in _rows(rows, "DiT") if _chunk_of(row) is None)
        shares = (row.share for row in steady if row.cached_frames == cached)
        return max((share for share in shares if share is not None), default=None)

    return find


def _fps(decoder: str) -> Callable[[Sequence[Row]], float | None]:
    """Look for streams that were decoded so and written to a file: what a user waits for."""

    def find(rows: Sequence[Row]) -> float | None:
        found = [
            row.fps
            for row in _rows(rows, "end to end")
            if row.cached_frames == 3
            and {decoder, "written"} <= set(row.path.split(", "))
            and row.fps is not None
        ]
        return max(found, default=None)

    return find


def _decode(rows: Sequence[Row]) -> float | None:
    found = (
        row.ms for row in _rows(rows, "VAE") if row.path.split(", ")[0] in ("fast", "compiled")
    )
    return min(found, default=None)


def _growth(rows: Sequence[Row]) -> float | None:
    spent = {_chunk_of(row): row.ms for row in _rows(rows, "DiT")}
    late = [number for number in spent if number is not None and number >= LATE_CHUNK]
    if EARLY_CHUNK not in spent or not late:
        return None
    return spent[max(late)] / spent[EARLY_CHUNK]


def _training(rows: Sequence[Row]) -> float | None:
    whole = (row for row in _rows(rows, "training step") if row.model.endswith("14B"))
    found = (row.peak_mb for row in whole if row.peak_mb is not None)
    return max((peak * 2**20 / 1e9 for peak in found), default=None)


GOALS = (
    Goal("DiT, 3 cached + state, share of the bound", 0.65, True, _share(3)),
    Goal("DiT, 9 cached + state, share of the bound", 0.65, True, _share(9)),
    Goal("exact VAE, ms per 12 frames", 150, False, _decode),
    Goal("end to end and written, 3 cached + state, exact VAE, FPS", 30, True, _fps("exact")),
    Goal("end to end and written, 3 cached + state, preview, FPS", 45, True, _fps("tiny")),
    Goal("chunk 10,000 over chunk 20, 3 cached + state", 1.02, False, _growth),
    Goal("training step of the paper's recipe, most GB", 141, False, _training),
)


class Verdict(NamedTuple):
    """What was found of a goal."""

    goal: Goal
    found: float | None

    @property
    def word(self) -> str:
        """Return `met`, `missed`, or `not run`."""
        if self.found is None:
            return "not run"
        enough = (
            self.found >= self.goal.wanted
            if self.goal.is_least
            else self.found <= self.goal.wanted
        )
        return "met" if enough else "missed"

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Return name, what is wanted, what was found, and the verdict."""
        sign = ">=" if self.goal.is_least else "<="
        found = "not run" if self.found is None else f"{self.found:.3g}"
        return self.goal.name, f"{sign} {self.goal.wanted:g}", found, self.word


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Return a verdict on every goal."""
    return [Verdict(goal, goal.find(rows)) for goal in GOALS]


def print_goals(rows: Sequence[Row]) -> dict[str, dict[str, object]]:
    """Print and return what is wanted, what was found and whether it is enough."""
    table = Table(title="goals: 1.3B on one H200 at 480 x 832, 4 steps and a clean pass")
    for column in ("goal", "wanted", "found", ""):
        table.add_column(column, justify="right" if column in ("wanted", "found") else "left")
    verdicts = judge(rows)
    for verdict in verdicts:
        table.add_row(*verdict.cells)
    Console().print(table)
    return {
        each.goal.name: {"wanted": each.goal.wanted, "found": each.found, "verdict": each.word}
        for each in verdicts
    }
