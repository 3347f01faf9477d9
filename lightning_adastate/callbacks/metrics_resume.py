"""The rows of metrics.csv in the checkpoint, so that a resumed run has one file: nothing lost, nothing twice."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_warn

from lightning_adastate.callbacks.lightning_internals import unlogged_metrics
from lightning_adastate.files import write_text

METRICS_KEY = "metrics_files"
"""Where the files' texts stand in a checkpoint."""


class MetricsResume(Callback):
    """Let the metrics of a resumed run begin with those of the run that it goes on from, up to the checkpoint.

    For every ``CSVLogger``; the rows travel in the checkpoint, since a logger that is given the old folder empties its
    file, and what came after the checkpoint is logged again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: list[str] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Add the files' texts, with the row of the batch in hand."""
        del pl_module
        if not trainer.is_global_zero:
            return
        unlogged = unlogged_metrics(trainer)
        texts = []
        for logger in csv_loggers(trainer):
            logger.save()
            text = read_text(metrics_file(logger))
            texts.append(text if unlogged is None else with_row(text, unlogged))
        checkpoint[METRICS_KEY] = texts

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Keep the texts until training starts."""
        del trainer, pl_module
        texts = checkpoint.get(METRICS_KEY)
        self._pending = [str(text) for text in texts] if isinstance(texts, list) else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files anew."""
        del pl_module
        texts, self._pending = self._pending, None
        if texts is None or not trainer.is_global_zero:
            return
        loggers = csv_loggers(trainer)
        if len(texts) != len(loggers):
            rank_zero_warn(
                f"the checkpoint has the metrics of {len(texts)} CSVLoggers, this run has {len(loggers)}: "
                "the others begin here"
            )
        for logger, text in zip(loggers, texts, strict=False):
            write_text(metrics_file(logger), text)
            logger.experiment.metrics_keys = list(reader(text).fieldnames or [])


def csv_loggers(trainer: Trainer) -> list[CSVLogger]:
    """Return the loggers of a trainer that write metrics.csv."""
    return [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]


def metrics_file(logger: CSVLogger) -> Path:
    """Return where a logger writes."""
    return Path(logger.experiment.metrics_file_path)


def read_text(path: Path) -> str:
    """Return a file's text with its line ends as they are; nothing if there is no file."""
    return path.read_bytes().decode() if path.exists() else ""


def reader(text: str) -> csv.DictReader[str]:
    """Return the rows of a CSV text."""
    return csv.DictReader(io.StringIO(text, newline=""))


def with_row(text: str, row: dict[str, float]) -> str:
    """Return a CSV text with one more row, and a column for whatever is new in it, as a ``CSVLogger`` writes it."""
    before = reader(text)
    rows = list(before)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, fieldnames=sorted({*(before.fieldnames or []), *row}))
    writer.writeheader()
    writer.writerows([*rows, row])
    return out.getvalue()
