"""Every video of a study with its scores, as one table: an arm, a seed, a horizon and an episode per line."""

# Shapes: S training seeds, E episodes.

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_adastate.files import whole_file
from lightning_adastate.studies.grid import EXTRA
from lightning_adastate.studies.plan import DONE, Row

try:
    import pandas as pd
except ImportError as error:
    raise ImportError(EXTRA) from error


@dataclass(frozen=True)
class StudyRows:
    """The scores of a study's videos.

    Args:
        frame: One line per row, seed, horizon and episode.
        rows: The rows that have scores, in the order of the study.
        metrics: Names of the scores.
        wide: For each row and horizon a line per seed (-1 if not trained), with columns by score and episode.
    """

    frame: pd.DataFrame
    rows: Sequence[Row]
    metrics: Sequence[str]
    wide: Mapping[tuple[str, int], pd.DataFrame]

    @property
    def names(self) -> list[str]:
        """List the rows' names; all seeds of one have the same."""
        return list(dict.fromkeys(row.name for row in self.rows))

    @property
    def horizons(self) -> list[int]:
        """List the lengths in frames."""
        return sorted(int(frames) for frames in self.frame["frames"].unique())

    def start_of(self, name: str) -> str | None:
        """Name the row with the weights that a row started from, if it was scored."""
        start = next(row.start for row in self.rows if row.name == name)
        return start if start in self.names else None

    def first(self, name: str) -> Row:
        """Return a row's first seed."""
        return next(row for row in self.rows if row.name == name)

    def table(self, name: str, frames: int, metric: str) -> tuple[list[int | None], Tensor]:
        """Return a row's seeds, ``None`` if it was not trained, and one score of all its videos ``[S, E]``."""
        wide = self.wide[name, frames][metric]
        seeds = [None if seed < 0 else int(seed) for seed in wide.index]
        return seeds, torch.as_tensor(wide.to_numpy(dtype=float).copy())

    def write(self, folder: Path) -> list[str]:
        """Write ``rows.csv``, and ``rows.parquet`` where pyarrow is installed; return their names."""
        with whole_file(folder / "rows.csv") as partial:
            self.frame.to_csv(partial, index=False)
        try:
            import pyarrow  # noqa: F401
        except ImportError:  # an optional convenience
            return ["rows.csv"]
        with whole_file(folder / "rows.parquet") as partial:
            self.frame.to_parquet(partial, index=False)
        return ["rows.csv", "rows.parquet"]


def read_rows(rows: Sequence[Row], axes: Sequence[str]) -> StudyRows:
    """Read the scores of all rows that have them.

    Args:
        rows: The study's.
        axes: Names of its axes; each becomes a column.

    Raises:
        ValueError: If no row has any.
    """
    there = [row for row in rows if row.scores.done]
    if not there:
        raise ValueError("no cell of the study was scored; see what failed above")
    parts = []
    metrics: dict[str, None] = {}
    for row in there:
        scores = pd.read_csv(row.scores.folder / "scores.csv")
        numbers = scores.drop(columns=["arm", "frames", "episode"]).select_dtypes("number")
        metrics.update(dict.fromkeys(numbers.columns))
        keys: dict[str, object] = {
            "row": row.name,
            "arm": row.arm or "",
            "stage": row.stage or "",
            "seed": row.seed,
            "frames": scores["frames"],
            "episode": scores["episode"],
            **{axis: row.levels.get(axis, "") for axis in axes},
        }
        parts.append(pd.DataFrame({**keys, **{name: numbers[name] for name in numbers}}))
    frame = pd.concat(parts, ignore_index=True)
    frame["seed"] = frame["seed"].astype("Int64")
    numbered = frame.assign(seed=frame["seed"].fillna(-1)).groupby(["row", "frames"])
    wide = {
        (str(name), int(frames)): part.set_index(["seed", "episode"])[list(metrics)].unstack()
        for (name, frames), part in numbered
    }
    return StudyRows(frame, there, list(metrics), wide)


def about(row: Row) -> dict[str, object]:
    """Return what is known of a scored row beside its scores: weights, prompts, attention."""
    known: dict[str, object] = json.loads((row.scores.folder / DONE).read_text())
    return known
