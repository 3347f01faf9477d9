"""The metrics of a resumed run are one file with the rows of the uninterrupted one."""

import csv
import os
import signal

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from training_toy import ClipData, flow_matching, trainer


class StopAt(Callback):
    """Sends the signal of a cluster that wants its machine back."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.batches_seen == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(folder, *, version=None, resume=None, max_steps=8, callbacks=(), every=1):
    """Train for two epochs of 4 batches, validating after each; return the rows of metrics.csv."""
    logger = CSVLogger(folder / "runs", "toy", version=version)
    run = trainer(
        folder,
        logger=logger,
        log_every_n_steps=every,
        max_epochs=2,
        max_steps=max_steps,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
    )
    run.fit(flow_matching(), ClipData(8), ckpt_path=resume, weights_only=True)
    with open(f"{logger.log_dir}/metrics.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def assert_same(ours, theirs):
    """Compare the rows but for the epoch's number, in whatever order the columns are."""
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert {**mine, "epoch": ""} == {**other, "epoch": ""}


@pytest.mark.parametrize(
    ("stop", "version", "every"),
    [(3, None, 1), (3, 0, 3), (6, 0, 1)],
    ids=["new folder", "same folder", "second epoch"],
)
def test_a_stopped_run_goes_on_with_its_rows(tmp_path, stop, version, every):
    whole = fit(tmp_path / "whole", every=every)
    assert [row["val/loss"] != "" for row in whole].count(True) == 2
    fit(tmp_path, callbacks=[StopAt(stop)], every=every)
    resumed = fit(tmp_path, version=version, resume=tmp_path / "stopped.ckpt", every=every)
    assert_same(resumed, whole)


def test_only_the_validation_that_a_stop_has_no_time_for_is_missing(tmp_path):
    whole = fit(tmp_path / "whole")
    fit(tmp_path, callbacks=[StopAt(4)])  # the last batch of the first epoch
    resumed = fit(tmp_path, resume=tmp_path / "stopped.ckpt")
    (validated, _) = [row for row in whole if row["val/loss"]]
    assert_same(resumed, [row for row in whole if row is not validated])


def test_rows_after_the_checkpoint_are_not_there_twice(tmp_path):
    whole = fit(tmp_path / "whole")
    saves = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    fit(tmp_path, callbacks=[saves], max_steps=7)
    for step in (1, 2, 5, 6):
        assert_same(fit(tmp_path, version=0, resume=tmp_path / f"step={step}.ckpt"), whole)


def test_a_run_without_a_logger_is_resumed(tmp_path):
    for resume in (None, tmp_path / "stopped.ckpt"):
        run = trainer(tmp_path, max_epochs=2, callbacks=[StopAt(3)])
        run.fit(flow_matching(), ClipData(8), ckpt_path=resume, weights_only=True)
