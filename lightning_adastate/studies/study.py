"""A study: what is missing is trained, everything is scored, and the result is one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lightning_adastate.evaluation.arms import Variation
from lightning_adastate.evaluation.comparison import check_numbers
from lightning_adastate.files import make_folder, write_text
from lightning_adastate.studies.grid import Grid
from lightning_adastate.studies.job import Job
from lightning_adastate.studies.launch import Launcher
from lightning_adastate.studies.marks import SCORING_ROOMS, TRAINING_ROOMS, code_mark, file_mark
from lightning_adastate.studies.plan import Plan, Row
from lightning_adastate.studies.planner import Planner
from lightning_adastate.studies.report import write_report
from lightning_adastate.studies.rows import StudyRows, read_rows
from lightning_adastate.studies.tables import SHOWN, Estimate, StudyTable, estimates, plain, tables


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Args:
        rows: Every score of every video.
        baseline: What all are compared with.
        metrics: Scores in tables and plots.
        estimates: Means and paired differences, with intervals.
        failed: What failed, by name, in one sentence each.
    """

    rows: StudyRows
    baseline: str
    metrics: list[str]
    estimates: list[Estimate]
    failed: dict[str, str]

    def tables(self, horizons: Sequence[int] | None = None) -> list[StudyTable]:
        """Return the means, and the differences from baseline and start, for each horizon, the longest first.

        Args:
            horizons: Which; ``None`` is all.
        """
        wanted = self.rows.horizons[::-1] if horizons is None else horizons
        return tables(self.rows, self.estimates, self.baseline, self.metrics, wanted)


@dataclass(frozen=True)
class Study:
    """A grid, and where its results are kept.

    Args:
        grid: What is varied.
        output: Folder of the result.
        store: Folder of trainings and scores, which several studies may share; ``None`` is the output.
        any_code: Take what other versions of the code have made, where this one has nothing.
        title: Above the report.
    """

    grid: Grid
    output: Path
    store: Path | None = None
    any_code: bool = False
    title: str = "study"

    def plan(self) -> Plan:
        """Work out rows and trainings; nothing is trained.

        Raises:
            ValueError: If a cell's configuration does not fit, or there is no such baseline.
        """
        scoring = self.grid.evaluation
        planner = Planner(self.grid, self.store or self.output, any_code=self.any_code)
        check_numbers(
            {"arm": Variation()},
            scoring.episodes,
            scoring.horizons,
            planner.comparison["num_given"],
            scoring.seed,
        )
        plan = planner.plan()
        names = list(dict.fromkeys(row.name for row in plan.rows))
        if self.grid.baseline not in (None, *names):
            listed = ", ".join(repr(name) for name in names)
            raise ValueError(f"there is no `baseline` {self.grid.baseline!r}; rows are {listed}")
        return plan

    def jobs(self, plan: Plan, *, threads: int = 1, keep_checkpoints: bool = False) -> list[Job]:
        """Return the jobs of a plan: each training with what is scored of it, and each start."""
        scored: dict[str, list[Row]] = {}
        for row in plan.rows:
            made_by = row.scores.training
            scored.setdefault(
                made_by.folder.name if made_by else row.scores.folder.name, []
            ).append(row)
        made = []
        for key, rows in scored.items():
            if key not in plan.trainings:
                made.append(Job(key, rows[0].name, None, (rows[0].scores,), threads=threads))
        for key, training in plan.trainings.items():
            scorings = {row.scores.folder: row.scores for row in scored.get(key, ())}
            after = None if training.after is None else training.after.folder.name
            made.append(
                Job(
                    key,
                    training.name,
                    training,
                    tuple(scorings.values()),
                    after,
                    threads,
                    keep_checkpoints,
                )
            )
        return made

    def run(
        self,
        *,
        cluster: str = "local",
        workers: int | None = None,
        cluster_options: Mapping[str, Any] | None = None,
        threads: int = 1,
        keep_checkpoints: bool = False,
        console: Console | None = None,
    ) -> StudyResult:
        """Train and score what is missing, then write the folder.

        Args:
            cluster: ``local`` for processes on this machine, ``slurm`` where there is one.
            workers: Jobs at a time; ``None`` is one for each core of this machine.
            cluster_options: submitit's own.
            threads: Threads of each job; its numbers are those of ``fit`` with as many.
            keep_checkpoints: Leave the checkpoints of finished trainings; their weights are kept in any case.
            console: Where progress goes.

        Raises:
            ValueError: If something does not fit, before anything is trained, or no cell was scored.
        """
        plan = self.plan()
        make_folder(self.output)
        jobs = self.jobs(plan, threads=threads, keep_checkpoints=keep_checkpoints)
        launcher = Launcher(
            (self.store or self.output) / "jobs",
            cluster,
            workers,
            cluster_options or {},
            console or Console(),
        )
        failures = launcher.run(jobs)
        names = {job.key: job.name for job in jobs}
        failed = {names[key]: why for key, why in failures.items()}
        try:
            result = self.result(plan, failed)
        except ValueError as error:
            reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
            raise ValueError(f"{error} {reasons}".strip()) from error
        self.write(plan, result)
        return result

    def result(self, plan: Plan, failed: Mapping[str, str] | None = None) -> StudyResult:
        """Read what is there, and work out means, differences and intervals.

        Raises:
            ValueError: If nothing is there, or a metric does not exist.
        """
        rows = read_rows(plan.rows, list(self.grid.axes))
        first = next(row.name for row in plan.rows if row.arm is not None)
        wanted = self.grid.baseline or first
        baseline = wanted if wanted in rows.names else rows.names[0]
        unknown = [name for name in self.grid.metrics or () if name not in rows.metrics]
        if unknown:
            raise ValueError(
                f"there is no score {unknown[0]!r} for `metrics`; there are {', '.join(rows.metrics)}"
            )
        counted = [name for name in rows.metrics if rows.frame[name].notna().any()]
        metrics = self.grid.metrics or [name for name in SHOWN if name in counted]
        found = estimates(rows, baseline)
        return StudyResult(rows, baseline, metrics, found, dict(failed or {}))

    def write(self, plan: Plan, result: StudyResult) -> list[str]:
        """Write scores, tables and the report into the folder; return the files' names."""
        names = result.rows.write(self.output)
        grid = asdict(self.grid)
        about = {
            "study": grid,
            "code": {"training": code_mark(TRAINING_ROOMS), "scoring": code_mark(SCORING_ROOMS)},
            "baseline": result.baseline,
            "rows": [_about_row(row) for row in plan.rows],
            "estimates": [
                {k: plain(v) if isinstance(v, float) else v for k, v in each._asdict().items()}
                for each in result.estimates
            ],
            "failed": result.failed,
        }
        write_text(self.output / "results.json", json.dumps(about, indent=1) + "\n")
        shown = result.tables()
        summary = self._summary(result)
        lost = "".join(f"\n- **failed**: {name}: {why}" for name, why in result.failed.items())
        text = "\n".join(table.markdown() for table in shown)
        write_text(self.output / "table.md", f"# {self.title}\n\n{summary}\n{lost}\n{text}")
        origin = yaml.safe_dump(grid, sort_keys=False) + "\n" + _commands(plan)
        videos = write_report(
            self.output / "report.html",
            title=self.title,
            summary=summary,
            rows=result.rows,
            found=result.estimates,
            tables=shown,
            metrics=result.metrics,
            failed=result.failed,
            origin=origin,
        )
        return [*names, "results.json", "table.md", "report.html", *videos]

    def _summary(self, result: StudyResult) -> str:
        seeds = sorted({row.seed for row in result.rows.rows if row.seed is not None})
        return (
            f"{len(result.rows.names)} rows, training seeds {', '.join(map(str, seeds)) or 'none'}, "
            f"{self.grid.evaluation.episodes} paired episodes (seed {self.grid.evaluation.seed}) of "
            f"{self.grid.evaluation.compare}. Intervals are of 95 %, by resampling seeds and episodes together; rows "
            "that were not trained have the episodes' part alone. Of many differences one in twenty excludes 0 by "
            "chance: decide beforehand which to look at."
        )


def _about_row(row: Row) -> dict[str, object]:
    training = row.scores.training
    weights = Path(row.scores.weights)
    return {
        "row": row.name,
        "arm": row.arm,
        "levels": dict(row.levels),
        "stage": row.stage,
        "seed": row.seed,
        "start": row.start,
        "scores": str(row.scores.folder),
        "weights": str(weights),
        "weights_mark": file_mark(weights) if weights.is_file() else None,
        "command": None if training is None else training.command,
    }


def _commands(plan: Plan) -> str:
    """Return what would train each cell by hand."""
    return "\n".join(f"# {each.name}\n{each.command}" for each in plan.trainings.values())
