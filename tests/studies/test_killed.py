"""kill -9 in the middle of a study of two worker processes: the next run goes on, and ends where an undisturbed one does."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lightning_adastate.__main__ import main

GRID = {
    "recipe": "toy/adastate",
    "settings": {
        "trainer.max_steps": 6,
        "trainer.callbacks": [
            {
                "class_path": "ModelCheckpoint",
                "init_args": {"every_n_train_steps": 2, "save_last": True},
            }
        ],
        "model.critic_warmup": 1,
        "model.critic_steps": 1,
        "model.optimizer.lr": 1e-3,
        "data.num_clips": 12,
        "data.video_frames": 21,
        "data.batch_size": 2,
    },
    "axes": {"model.anchor": ["anchors/static", "anchors/adaptive", "anchors/none"]},
    "start": False,
    "evaluation": {"episodes": 3, "horizons": [9, 12]},
}
MINUTES = 5


@pytest.mark.nightly
def test_a_killed_study_goes_on_and_ends_where_an_undisturbed_one_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(json.dumps(GRID))
    options = ["ablate", "--config", "grid.yaml", "--workers", "2", "--output"]
    begun = subprocess.Popen(
        [sys.executable, "-m", "lightning_adastate", *options, "killed"],
        start_new_session=True,
    )
    trainings = tmp_path / "killed" / "trainings"
    limit = time.monotonic() + 60 * MINUTES
    # One cell is done, another has written a checkpoint and is not.
    while not (done := _done(trainings)) or not _under_way(trainings):
        assert begun.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < limit
        time.sleep(0.02)
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    finished = {name: _changed(trainings / name) for name in done}
    assert len(finished) < 3
    assert main([*options, "killed"]) == 0
    assert {name: _changed(trainings / name) for name in finished} == finished
    about = [json.loads(path.read_text()) for path in trainings.glob("*/done.json")]
    assert len(about) == 3
    assert any(each["resumed_from"] for each in about)
    assert main([*options, "whole", "--cluster", "debug"]) == 0
    rows = [(tmp_path / name / "rows.csv").read_text() for name in ("killed", "whole")]
    assert rows[0] == rows[1]


def _done(trainings):
    return [path.parent.name for path in trainings.glob("*/done.json")]


def _under_way(trainings):
    return any(
        not (path.parent.parent / "done.json").exists()
        for path in trainings.glob("*/checkpoints/*.ckpt")
    )


def _changed(folder):
    return (folder / "weights.safetensors").stat().st_mtime_ns
