"""A study end to end in this process: trained, scored, reported, found again; a cell that fails is named."""

import csv
import fcntl
import json
import os
import signal

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file

from lightning_adastate.__main__ import main
from lightning_adastate.studies.grid import Grid, Scoring
from lightning_adastate.studies.job import locked, newest_checkpoint, train
from lightning_adastate.studies.launch import sentence_of
from lightning_adastate.studies.study import Study
from lightning_adastate.weights.files import find_weights

TINY = {
    "trainer.max_steps": 1,
    "model.critic_warmup": 0,
    "model.critic_steps": 1,
    "data.num_clips": 4,
    "data.video_frames": 21,
    "data.batch_size": 1,
}
SHORT = Scoring(episodes=3, horizons=[9, 12])
UNTRAINED = {"stages": []}
TWO = ["toy/causal", "toy/adastate"]


class Sigterm(Callback):
    """Send one, as a cluster does that takes the machine away."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)


def study(folder, **options):
    defaults = {"recipe": "toy/adastate", "settings": TINY, "evaluation": SHORT}
    return Study(Grid(**{**defaults, **options}), folder)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two cells that train nothing."""
    arms = {"none": {"model.anchor": "anchors/none", **UNTRAINED}, "adaptive": UNTRAINED}
    made = study(tmp_path_factory.mktemp("study"), arms=arms)
    return made, made.run(cluster="debug")


def test_one_folder_holds_scores_tables_report_and_videos(scored):
    made, result = scored
    names = {path.relative_to(made.output).as_posix() for path in made.output.rglob("*")}
    assert {"results.json", "rows.csv", "table.md", "report.html", "videos/episode-0.mp4"} <= names
    assert result.failed == {}
    lines = list(csv.DictReader((made.output / "rows.csv").open()))
    assert len(lines) == 2 * 2 * 3
    assert lines[0]["row"] == "none"
    assert float(lines[0]["displacement"]) == float(lines[0]["displacement"])


def test_the_report_needs_nothing_else(scored):
    page = (scored[0].output / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 2
    assert page.count("data:image/svg+xml;base64,") == 2
    assert 'src="videos' not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_no_mean_stands_without_its_interval(scored):
    made, result = scored
    kept = json.loads((made.output / "results.json").read_text())
    assert {each["against"] for each in kept["estimates"]} == {None, "none"}
    assert all(each["low"] <= each["mean"] <= each["high"] for each in kept["estimates"])
    numbers = [cell.text for table in result.tables() for row in table.rows for cell in row[2:]]
    assert numbers
    assert all("[" in text or text == "-" for text in numbers)


def test_a_cell_scores_what_compare_scores(scored, tmp_path):
    """The same loop, weights, episodes and noise: the same numbers as the verb's."""
    options = ["--episodes", "3", "--horizons", "[9, 12]", "--seed", "2000"]
    main(["compare", "--config", "toy/compare", "--output", str(tmp_path), *options])
    theirs = [row for row in csv.DictReader((tmp_path / "scores.csv").open())]
    theirs = [row for row in theirs if row["arm"] in ("none", "adaptive")]
    ours = list(csv.DictReader((scored[0].output / "rows.csv").open()))
    scores = [name for name in theirs[0] if name not in ("arm", "frames", "episode")]
    for one, other in zip(ours, theirs, strict=True):
        assert (one["row"], one["frames"], one["episode"]) == tuple(
            other[k] for k in ("arm", "frames", "episode")
        )
        for name in scores:
            mine, your = float(one[name] or "nan"), float(other[name])
            assert mine == pytest.approx(your, abs=1e-4, nan_ok=True)


def test_a_failed_cell_is_named_and_the_others_are_whole(tmp_path, capsys):
    config = tmp_path / "grid.yaml"
    grid = {
        "recipe": "toy/adastate",
        "arms": {"good": UNTRAINED, "bad": {"data.val_fraction": 1.5, "stages": TWO}},
        "start": False,
        "evaluation": {"episodes": 3, "horizons": [9]},
    }
    config.write_text(json.dumps(grid))
    given = ["--config", str(config), "--output", str(tmp_path / "out"), "--cluster", "debug"]
    assert main(["ablate", *given]) == 1
    said = capsys.readouterr().err
    assert "failed: bad, seed 0, causal: " in said
    assert "`val_fraction` must be" in said
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(kept["failed"]) == ["bad, seed 0, causal", "bad, seed 0, adastate"]
    assert kept["failed"]["bad, seed 0, adastate"] == "not run: bad, seed 0, causal failed"
    assert {each["row"] for each in kept["estimates"]} == {"good"}
    assert "bad, seed 0" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_what_is_there_is_not_made_again_and_weights_move(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = study(
        tmp_path / "out", settings={**TINY, "trainer.max_steps": 2}, arms={"adaptive": {}}
    )
    made.run(cluster="debug")
    (training,) = made.plan().trainings.values()
    assert training.done
    before = training.weights.stat().st_mtime_ns
    made.run(cluster="debug")
    assert training.weights.stat().st_mtime_ns == before
    weights = {
        name.partition("backbone.")[2]: w for name, w in load_file(training.weights).items()
    }
    start = load_file(find_weights("toy/generator.safetensors"))
    assert weights.keys() == start.keys()
    assert any(not torch.equal(weights[name], start[name]) for name in start)
    assert not list(training.folder.rglob("*.ckpt"))
    assert [path.name for path in tmp_path.iterdir()] == [
        "out"
    ]  # nothing in the working directory


@pytest.mark.slow
def test_a_training_that_a_signal_stopped_is_not_done(tmp_path):
    stop = {"class_path": "GracefulStop", "init_args": {"filename": "mine.ckpt"}}
    settings = {
        **TINY,
        "trainer.max_steps": 3,
        "trainer.callbacks": [stop, {"class_path": f"{__name__}.Sigterm"}],
    }
    (training,) = study(tmp_path, settings=settings, arms={"one": {}}).plan().trainings.values()
    with pytest.raises(
        RuntimeError, match="stopped by a signal after step 1; run the study again"
    ):
        train(training)
    assert not training.done
    assert list(training.folder.rglob("mine.ckpt"))


@pytest.mark.slow
def test_a_later_stage_starts_from_the_average_of_the_one_before(tmp_path):
    still = {"first/model.optimizer.lr": 0.5, "second/model.optimizer.lr": 1e-12}
    made = study(
        tmp_path / "out",
        recipe=None,
        stages={"first": "toy/self_forcing", "second": "toy/adastate"},
        settings={**TINY, **still},
        arms={"both": {}},
        evaluation=Scoring(episodes=3, horizons=[9], every_stage=True),
    )
    result = made.run(cluster="debug")
    first, second = (load_file(each.weights) for each in made.plan().trainings.values())
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6)
    assert result.rows.names == ["start", "both (first)", "both"]


def test_a_lock_is_held_alone(tmp_path):
    with (
        locked(tmp_path),
        (tmp_path / ".lock").open("w") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with locked(tmp_path):
        pass


def test_a_checkpoint_that_is_cut_short_is_passed_over(tmp_path):
    whole = {"state_dict": {}, "loops": {}, "optimizer_states": []}
    torch.save(whole, tmp_path / "whole.ckpt")
    cut = (tmp_path / "whole.ckpt").read_bytes()[:100]
    (tmp_path / "last.ckpt").write_bytes(cut)
    assert newest_checkpoint(tmp_path) == tmp_path / "whole.ckpt"
    (tmp_path / "whole.ckpt").unlink()
    assert newest_checkpoint(tmp_path) is None


def test_a_job_s_trace_becomes_its_last_sentence():
    trace = "Job (task=0) failed during processing with trace:\n---\nTraceback (most recent call last):\n  x\nValueError: too few\n---\nYou can use"
    assert sentence_of(RuntimeError(trace)) == "ValueError: too few"
    assert sentence_of(ValueError("plain words")) == "ValueError: plain words"
    killed = "Job 1 (task: 0) with path x\nhas not produced any output (state: FINISHED)"
    assert "killed" in sentence_of(RuntimeError(killed))
