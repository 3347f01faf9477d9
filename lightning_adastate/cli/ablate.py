"""ablate: train a grid of configurations with several seeds, score every cell, and write one table with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lightning_adastate.evaluation.console import wide_console
from lightning_adastate.studies.loading import build_grid, study_parser
from lightning_adastate.studies.study import Study


def main(args: Sequence[str] | None = None) -> int:
    """Parse, train and score what is missing, print and write."""
    parser = study_parser()
    parser.add_argument("--output", type=Path | None, help="Folder; runs/ and the grid's name.")
    parser.add_argument(
        "--store", type=Path | None, help="Folder of trainings and scores that studies may share."
    )
    parser.add_argument("--workers", type=int | None, help="Jobs at a time; one for each core.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of each job.")
    parser.add_argument(
        "--cluster", type=str, default="local", help="`local`: processes here; `slurm`."
    )
    parser.add_argument(
        "--cluster_options", type=dict | None, help="submitit's: {slurm_partition: gpu}."
    )
    parser.add_argument("--any_code", type=bool, default=False, help="Reuse other versions' too.")
    parser.add_argument("--keep_checkpoints", type=bool, default=False, help="Of what is done.")
    parser.add_argument("--dry_run", type=bool, default=False, help="Only say what is missing.")
    parsed = parser.parse_args(args)
    name = Path(str(parsed.config[-1])).stem if parsed.config else "study"
    output = parsed.output or Path("runs") / name
    study = Study(build_grid(parser, parsed), output, parsed.store, parsed.any_code, name)
    if parsed.dry_run:
        return _dry_run(study)
    result = study.run(
        cluster=parsed.cluster,
        workers=parsed.workers,
        cluster_options=parsed.cluster_options,
        threads=parsed.threads,
        keep_checkpoints=parsed.keep_checkpoints,
    )
    console = wide_console()
    for table in result.tables(result.rows.horizons[-1:]):
        console.print(table.rich())
    print(f"written to {output}: report.html, table.md (all horizons), results.json, rows.csv")
    for cell, why in result.failed.items():
        Console(stderr=True, soft_wrap=True).print(f"failed: {cell}: {why}", markup=False)
    return 1 if result.failed else 0


def _dry_run(study: Study) -> int:
    """Say what is there and what is missing."""
    jobs = study.jobs(study.plan())
    for job in jobs:
        steps = "score" if job.training is None else f"{job.training.max_steps} steps"
        print(f"{'there  ' if job.done else 'missing'}  {job.name}  ({steps})")
    print(f"{sum(not job.done for job in jobs)} of {len(jobs)} jobs to do")
    return 0
