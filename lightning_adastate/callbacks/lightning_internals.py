"""What we need of Lightning's inner parts because its Trainer has no public way to say it; nowhere else in this room."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

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


def mend_epoch_counters(fit_loop: dict[str, Any]) -> int | None:
    """Put right the counters of a checkpoint that was saved at an epoch's end, or where ``max_steps`` cut an epoch short.

    From an epoch's last batch, its validation or its end Lightning 2.6 counts an epoch too many: a run of so many
    epochs then ends one too early, or at once, without a word, and validation comes at other epochs. A run that
    ``max_steps`` ended within an epoch says that the epoch is complete. The weights of the checkpoint are not touched.

    Args:
        fit_loop: Its ``loops["fit_loop"]``; changed in place.

    Returns:
        How many batches have stepped, for ``count_batches``, where an epoch is over; else ``None``.
    """
    epochs, batches = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    is_counted = epochs["total"]["completed"] == epochs["total"]["ready"]
    if not batches["is_last_batch"]:
        if is_counted and batches["current"]["completed"]:
            for counts in (epochs["total"], epochs["current"]):
                counts["processed"] = counts["completed"] = counts["ready"] - 1
        return None
    stepped: int = fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"]
    # One more if it was saved before the epoch's end.
    stepped += epochs["total"]["processed"] < epochs["total"]["ready"]
    for counts in (epochs["total"], epochs["current"], batches["total"]):
        counts.update(dict.fromkeys(counts, counts["ready"]))
    validated = fit_loop["epoch_loop.val_loop.batch_progress"]
    for counts in (batches["current"], validated["total"], validated["current"]):
        counts.update(dict.fromkeys(counts, 0))
    batches["is_last_batch"] = False
    # The loader's place is an epoch's end, where nothing is left.
    fit_loop["state_dict"].pop("combined_loader", None)
    return stepped


def count_batches(trainer: Trainer, stepped: int) -> None:
    """Say how many batches have stepped: where a resumed run begins an epoch, Lightning may have counted one too many.

    What is logged, and at which step where a module logs none, goes by this number.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = stepped
