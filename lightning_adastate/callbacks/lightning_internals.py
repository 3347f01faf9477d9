"""What we need of Lightning's inner parts because its Trainer has no public way to say it; nowhere else in this room."""

from __future__ import annotations

from dataclasses import asdict

from lightning.pytorch import Trainer
from torch import Tensor


def stop_now(trainer: Trainer) -> None:
    """End the fit after the batch in hand.

    ``Trainer.should_stop`` is the public way, but it waits for ``min_epochs`` and ``min_steps``, and a run that is
    killed has no time for them. ``min_steps`` belongs to the inner loop and can be set only there.
    """
    trainer.fit_loop.min_epochs = 0
    trainer.fit_loop.epoch_loop.min_steps = None
    trainer.should_stop = True


def unlogged_metrics(trainer: Trainer) -> dict[str, float] | None:
    """Return what Lightning will log of the batch in hand once its callbacks are through; ``None`` if nothing.

    A checkpoint that is written by a callback comes before this row; whoever resumes from it never sees the batch again.
    """
    batches = asdict(trainer.fit_loop.epoch_loop.batch_progress.current)
    connector = trainer._logger_connector
    if batches["completed"] == batches["processed"] or not connector.should_update_logs:
        return None
    metrics = connector.metrics["log"]
    row = {name: v.item() if isinstance(v, Tensor) else v for name, v in metrics.items()}
    if "step" in row:
        row["step"] = int(row["step"])
    elif row:
        row.setdefault("epoch", trainer.current_epoch)
        row["step"] = trainer.fit_loop.epoch_loop._batches_that_stepped
    return row or None
