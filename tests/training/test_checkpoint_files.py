"""Checkpoints are whole or not there: staged in their own folder, an error names the file that was meant."""

import fcntl
import resource
import tempfile
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import AsyncCheckpointIO
from training_toy import ClipData, flow_matching, trainer

from lightning_adastate.training.checkpoint_io import WholeCheckpointIO

SMALL, LARGE = {"a": torch.ones(3)}, {"a": torch.zeros(100_000), "b": torch.zeros(100_000)}


def test_checkpoints_are_not_staged_in_the_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    saves = ModelCheckpoint(tmp_path / "saves", save_last=True)
    run = trainer(tmp_path, max_steps=1, callbacks=[saves], enable_checkpointing=True)
    run.fit(flow_matching(), ClipData(4, val_count=0))
    assert {path.name for path in (tmp_path / "saves").iterdir()} == {
        "last.ckpt",
        "epoch=0-step=1.ckpt",
    }
    assert torch.load(tmp_path / "saves/last.ckpt", weights_only=True)["global_step"] == 1


@pytest.fixture
def small_disk():
    """No file can grow beyond 100 kB, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_names_the_checkpoint_and_leaves_the_last_one(tmp_path, small_disk):
    path = tmp_path / "saves" / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(SMALL, path)
    with pytest.raises(OSError, match="File too large") as raised:
        WholeCheckpointIO().save_checkpoint(LARGE, path)
    assert raised.value.filename == str(path)
    assert torch.load(path, weights_only=True)["a"].tolist() == [1.0] * 3
    assert list(path.parent.iterdir()) == [path]


def test_a_checkpoint_that_cannot_get_its_name_is_an_error(tmp_path):
    """Lightning moves it *into* a folder of that name, and passes over what is not permitted."""
    path = tmp_path / "last.ckpt"
    path.mkdir()
    with pytest.raises(OSError, match="directory") as raised:
        WholeCheckpointIO().save_checkpoint(SMALL, path)
    assert raised.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [path]
    assert list(path.iterdir()) == []


def test_the_next_start_removes_what_a_killed_one_left_and_nothing_that_is_being_written(tmp_path):
    folder = tmp_path / "runs/toy/version_3/checkpoints"
    folder.mkdir(parents=True)
    names = (
        ".last.ckpt.17.partial",
        ".last.ckpt.18.partial",
        ".notes.txt.17.partial",
        "last.ckpt",
    )
    for name in names:
        (folder / name).write_bytes(b"half")
    with (folder / ".last.ckpt.18.partial").open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        logger = CSVLogger(tmp_path / "runs", "toy")
        run = trainer(tmp_path, max_steps=1, logger=logger, enable_checkpointing=True)
        run.fit(flow_matching(), ClipData(4, val_count=0))
    assert sorted(path.name for path in folder.iterdir()) == sorted(names[1:])


def test_a_checkpoint_that_is_being_written_is_not_taken_for_a_left_over_one(tmp_path):
    class Look:
        """Pickled halfway: starts another run in the same folder."""

        def __reduce__(self):
            (partial,) = tmp_path.glob(".*.partial")
            run = trainer(tmp_path, max_steps=1)
            run.fit(flow_matching(), ClipData(4, val_count=0))
            assert partial.exists()
            return (str, ())

    WholeCheckpointIO().save_checkpoint({"a": Look()}, tmp_path / "last.ckpt")
    assert Path(tmp_path / "last.ckpt").exists()


def test_a_plugin_of_the_users_stays(tmp_path):
    plugin = AsyncCheckpointIO()
    run = trainer(tmp_path, max_steps=1, plugins=[plugin])
    run.fit(flow_matching(), ClipData(4, val_count=0))
    assert run.strategy.checkpoint_io is plugin
