"""Jobs through submitit: processes here, or a cluster's; as many at once as there may be, each behind what it needs."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from lightning_adastate.studies.grid import EXTRA
from lightning_adastate.studies.job import Job

if TYPE_CHECKING:
    import submitit

POLL_SECONDS = 0.5

MANY_MINUTES = 60 * 24 * 7
"""Time limit of a local process. submitit wants one; a cluster's own is set by its options."""

ERROR_LINE = re.compile(
    r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt|Exit)\b.*)$", re.MULTILINE
)


@dataclass
class Launcher:
    """Run jobs.

    Args:
        folder: Where submitit keeps its files and the jobs' output.
        cluster: ``local`` for processes on this machine, ``slurm`` where there is one, ``debug`` for this process.
        workers: Jobs at a time; ``None`` is one for each core of this machine.
        options: submitit's own, for example ``{slurm_partition: gpu, gpus_per_node: 1, timeout_min: 600}``.

    Raises:
        ValueError: If a number is out of range.
    """

    folder: Path
    cluster: str = "local"
    workers: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    console: Console = field(default_factory=Console)

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"`workers` must be 1 or more, got {self.workers}")

    def run(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Run jobs until none is left that can; return what failed: a job's key and one sentence.

        Jobs behind one that failed are not begun, and are among what is returned.

        Raises:
            ImportError: If submitit is missing.
            ValueError: If there is no such cluster here, or it does not know an option.
        """
        waiting = {job.key: job for job in jobs if not job.done}
        if not waiting:
            self.console.print(f"all {len(jobs)} jobs are done already")
            return {}
        run = _Run(self._executor(), waiting, self.console, debug=self.cluster == "debug")
        workers = self.workers or len(os.sched_getaffinity(0))
        with run.cancelled_on_the_way_out(), _bar(self.console) as bar:
            task = bar.add_task("", total=1.0)
            while run.waiting or run.running:
                run.begin(workers)
                run.look(bar.console)
                bar.update(task, completed=run.share_done, description=run.status())
                time.sleep(0.0 if self.cluster == "debug" else POLL_SECONDS)
        return run.failed

    def _executor(self) -> submitit.AutoExecutor:
        try:
            import submitit
        except ImportError as error:
            raise ImportError(EXTRA) from error
        logging.getLogger("submitit").setLevel(logging.ERROR)
        try:
            executor = submitit.AutoExecutor(self.folder, cluster=self.cluster)
            limits = {"timeout_min": MANY_MINUTES} if self.cluster == "local" else {}
            executor.update_parameters(name="ablate", **{**limits, **self.options})
        except (ValueError, NameError, RuntimeError, AssertionError) as error:  # submitit's own
            raise ValueError(f"cluster {self.cluster!r}: {error}") from error
        return executor


class _Run:
    """What waits, what runs, and what became of the rest."""

    def __init__(
        self,
        executor: submitit.AutoExecutor,
        waiting: dict[str, Job],
        console: Console,
        *,
        debug: bool,
    ) -> None:
        self.executor = executor
        self.waiting = waiting
        self.running: dict[str, tuple[Job, submitit.Job[None]]] = {}
        self.failed: dict[str, str] = {}
        self.debug = debug
        self.jobs = dict(waiting)
        self.before = {key: job.share_done for key, job in waiting.items()}
        self.begun = time.monotonic()
        self.finished = 0
        console.print(f"{len(waiting)} jobs to do")

    @contextlib.contextmanager
    def cancelled_on_the_way_out(self) -> Iterator[None]:
        """Leave no job behind if this ends before they do."""
        try:
            yield
        finally:
            for _, handle in self.running.values():
                handle.cancel()

    def begin(self, workers: int) -> None:
        """Submit what can run."""
        for key, job in list(self.waiting.items()):
            if job.after in self.failed:
                del self.waiting[key]
                self.failed[key] = f"not run: {self.jobs[str(job.after)].name} failed"
            elif len(self.running) < workers and not self._pending(job.after):
                del self.waiting[key]
                self.running[key] = (job, self.executor.submit(job))

    def _pending(self, key: str | None) -> bool:
        return key in self.waiting or key in self.running

    def look(self, console: Console) -> None:
        """Take in what has ended."""
        for key, (job, handle) in list(self.running.items()):
            if not self.debug and not handle.done():
                continue
            error = handle.exception()
            del self.running[key]
            if error is None:
                self.finished += 1
                console.print(f"done: {job.name}{self._remaining()}")
            else:
                self.failed[key] = f"{sentence_of(error)} (log: {handle.paths.stderr})"
                console.print(f"[red]failed[/red]: {job.name}: {self.failed[key]}", soft_wrap=True)

    @property
    def share_done(self) -> float:
        """Return how much of the work is done, by training steps, from 0 to 1."""
        weights = {
            key: 1.0 if job.training is None else float(job.training.max_steps)
            for key, job in self.jobs.items()
        }
        done = sum(weights[key] * self._share(key) for key in self.jobs)
        return done / sum(weights.values())

    def _share(self, key: str) -> float:
        """Return the part of a job's own remaining work that this run has done."""
        if key not in self.waiting and key not in self.running:
            return 1.0
        left = 1.0 - self.before[key]
        return max(0.0, self.jobs[key].share_done - self.before[key]) / left if left else 0.0

    def status(self) -> str:
        """Return what the bar says."""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{self.finished} of {len(self.jobs)} done, {len(self.running)} running{failed}{self._remaining()}"

    def _remaining(self) -> str:
        share = self.share_done
        if not 0.0 < share < 1.0:
            return ""
        seconds = (time.monotonic() - self.begun) * (1.0 - share) / share
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        text = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
        return f"; about {text} left"


def sentence_of(error: BaseException) -> str:
    """Return what a job said last, without its trace."""
    found = ERROR_LINE.findall(str(error))
    if "has not produced any output" in str(error):
        return "ended without a result: killed, or out of memory"
    if found:
        return str(found[-1]).strip()
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _bar(console: Console) -> Progress:
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


__all__ = ["Launcher", "sentence_of"]
