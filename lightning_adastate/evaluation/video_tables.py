"""The table of an evaluation, and its numbers as csv and json."""

# Shapes: B videos.

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from torch import Tensor

from lightning_adastate.evaluation.bootstrap import (
    Interval,
    mean_bootstrap,
    paired_bootstrap,
    unpaired_bootstrap,
)
from lightning_adastate.evaluation.video_groups import VideoGroup
from lightning_adastate.files import write_text
from lightning_adastate.metrics import (
    ConsistencyScores,
    DriftScores,
    DynamicsScores,
    FlowScores,
    LoopScores,
    SSIMScores,
)

MOTION = (*DynamicsScores._fields, *FlowScores._fields)
CONSISTENCY = (*ConsistencyScores._fields, *SSIMScores._fields, *LoopScores._fields)
DRIFT = DriftScores._fields

FROZEN_VIDEO = {
    **dict.fromkeys(MOTION, 0.0),
    **dict.fromkeys(CONSISTENCY, 1.0),
    **dict.fromkeys(DRIFT, 0.0),
    "motion_decay": math.nan,
    "shift_decay": math.nan,
    "frozen": 1.0,
    "boundary_jump": math.nan,
    "comebacks": 0.0,
    "novelty": 0.0,
    "loops": 0.0,
    "loop_period": math.nan,
}
"""What a video of one picture scores: the best there is, but for its motion."""

SHOWN_VIDEOS = 6
"""A single group of more videos than this is printed as its mean alone."""

Scores = Mapping[str, Tensor]


@dataclass(frozen=True)
class Difference:
    """What separates a group from the first one.

    Args:
        group: Its name.
        control: The first group's name.
        pairing: ``paired`` if both have the same file names, else ``unpaired``.
        intervals: Mean and 95 % interval by score; without those that too few videos have.
    """

    group: str
    control: str
    pairing: str
    intervals: dict[str, Interval]


def differences(groups: Sequence[VideoGroup], scored: Sequence[Scores]) -> list[Difference]:
    """Compare every group with the first: paired where the file names are the same."""
    found = []
    for group, scores in list(zip(groups, scored, strict=True))[1:]:
        paired = group.file_names == groups[0].file_names
        compare = paired_bootstrap if paired else unpaired_bootstrap
        intervals = {}
        for name, value in scores.items():
            interval = _if_enough(compare, value, scored[0][name])
            if interval is not None:
                intervals[name] = interval
        kind = "paired" if paired else "unpaired"
        found.append(Difference(group.name, groups[0].name, kind, intervals))
    return found


def _if_enough(compute: Callable[..., Interval], *values: Tensor) -> Interval | None:
    try:
        return compute(*values)
    except ValueError:  # fewer than two videos have this score
        return None


def table_of(
    groups: Sequence[VideoGroup], scored: Sequence[Scores], compared: Sequence[Difference]
) -> Table:
    """Return one table with a row per score: means of groups, and differences from the first group."""
    table = Table(title="means over videos [95 % interval]", title_justify="left")
    table.add_column("score", no_wrap=True)
    columns: list[dict[str, str]] = []

    def column(title: str, cells: dict[str, str]) -> None:
        table.add_column(title, justify="right", no_wrap=False)
        columns.append(cells)

    shows_videos = len(groups) == 1 and len(groups[0].files) <= SHOWN_VIDEOS
    for group, scores in zip(groups, scored, strict=True):
        for row, name in enumerate(group.file_names if shows_videos else []):
            column(name, {key: _number(value[row].item()) for key, value in scores.items()})
        if len(group.files) > 1 or not shows_videos:
            title = f"{group.name}, {len(group.files)} videos"
            column(title, {key: _mean(value) for key, value in scores.items()})
    for each in compared:
        cells = {key: _difference(each.intervals.get(key)) for key in scored[0]}
        column(f"{each.group} - {each.control}, {each.pairing}", cells)
    column("a frozen video", {key: _number(FROZEN_VIDEO[key]) for key in scored[0]})
    for title, names in (("motion", MOTION), ("consistency", CONSISTENCY), ("drift", DRIFT)):
        table.add_row(f"[bold]{title}[/bold]")
        for name in shown_scores(scored[0], names):
            table.add_row(name, *(cells[name] for cells in columns))
        table.add_section()
    return table


def shown_scores(
    scores: Scores, names: Sequence[str] = (*MOTION, *CONSISTENCY, *DRIFT)
) -> list[str]:
    """Return those of ``names`` that were scored, in their order."""
    return [name for name in names if name in scores]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _mean(value_B: Tensor) -> str:
    interval = _if_enough(mean_bootstrap, value_B)
    if interval is None:
        return _number(value_B.nanmean().item())
    return f"{_number(interval.mean)} \\[{interval.low:.2g}, {interval.high:.2g}]"


def _difference(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    text = interval.text("+.2g", " \\")
    return f"[bold]{text}[/bold]" if interval.sure else text


# -- files ------------------------------------------------------------------------------------------


def write_scores(
    folder: Path,
    groups: Sequence[VideoGroup],
    scored: Sequence[Scores],
    compared: Sequence[Difference],
    settings: Mapping[str, object],
) -> None:
    """Write ``scores.csv``, one line per video, and ``scores.json`` with means and differences too."""
    names = list(scored[0])
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(["group", "file", "frames", "height", "width", "fps", *names])
    videos: list[dict[str, object]] = []
    for group, scores in zip(groups, scored, strict=True):
        for row, file in enumerate(group.files):
            count, height, width, fps = file.info
            values = [scores[name][row].item() for name in names]
            about = [group.name, str(file.path), count, height, width, round(float(fps), 3)]
            writer.writerow([*about, *("" if math.isnan(v) else f"{v:.6g}" for v in values)])
            heads = ("group", "file", "frames", "height", "width", "fps")
            own = {n: _plain(v) for n, v in zip(names, values, strict=True)}
            videos.append({**dict(zip(heads, about, strict=True)), "scores": own})
    means = {
        group.name: {name: _plain(value.nanmean().item()) for name, value in scores.items()}
        for group, scores in zip(groups, scored, strict=True)
    }
    plain = {
        "settings": dict(settings),
        "videos": videos,
        "means": means,
        "differences": [
            {
                "group": each.group,
                "control": each.control,
                "pairing": each.pairing,
                "scores": {name: value._asdict() for name, value in each.intervals.items()},
            }
            for each in compared
        ],
    }
    write_text(folder / "scores.csv", lines.getvalue())
    write_text(folder / "scores.json", json.dumps(plain, indent=1) + "\n")


def _plain(value: float) -> float | None:
    """Return a number that json has; NaN is ``None``."""
    return None if math.isnan(value) else value
