"""What is trained again and what is not: the marks of trainings and scores. Nothing is trained here."""

import json
import re
from pathlib import Path

import pytest

import lightning_adastate
from lightning_adastate.studies import marks
from lightning_adastate.studies.grid import Grid, Scoring
from lightning_adastate.studies.loading import load_study
from lightning_adastate.studies.planner import Planner
from lightning_adastate.studies.study import Study

ARMS = {
    "static": {"model.anchor": "anchors/static"},
    "adaptive": {"model.anchor": "anchors/adaptive"},
}


ONE = {"axes": {"anchor": {"static": ARMS["static"]}}}  # parsing a recipe takes a while


def grid(**options):
    defaults = {"recipe": "toy/adastate", "axes": {"anchor": ARMS}}
    return Grid(**{**defaults, **options})


def trainings(tmp_path, **options):
    plan = Planner(grid(**options), tmp_path).plan()
    return {each.name: each for each in plan.trainings.values()}


def folders(tmp_path, **options):
    return {name: each.folder for name, each in trainings(tmp_path, **options).items()}


def finish(folder):
    folder.mkdir(parents=True)
    (folder / "done.json").write_text("{}")


def test_every_cell_and_seed_has_a_folder_of_its_own(tmp_path):
    found = folders(tmp_path, seeds=[0, 1])
    assert list(found) == [
        "static, seed 0",
        "static, seed 1",
        "adaptive, seed 0",
        "adaptive, seed 1",
    ]
    assert len(set(found.values())) == 4
    assert found == folders(tmp_path, seeds=[0, 1])


def test_a_changed_key_changes_its_own_cells_alone(tmp_path):
    before = folders(tmp_path)
    changed = {**ARMS, "static": {**ARMS["static"], "model.clip_norm": 5.0}}
    after = folders(tmp_path, axes={"anchor": changed})
    assert before["static, seed 0"] != after["static, seed 0"]
    assert before["adaptive, seed 0"] == after["adaptive, seed 0"]


def test_a_default_written_out_changes_nothing(tmp_path):
    same = folders(tmp_path, settings={"model.clip_norm": 10}, **ONE)
    assert same == folders(tmp_path, **ONE)


def test_where_logs_and_clips_are_kept_changes_nothing(tmp_path):
    elsewhere = {
        "data.cache_folder": str(tmp_path),
        "trainer.logger": False,
        "trainer.enable_progress_bar": False,
    }
    assert folders(tmp_path, settings=elsewhere, **ONE) == folders(tmp_path, **ONE)


def test_other_weights_in_the_same_file_are_other_weights(tmp_path):
    weights = tmp_path / "mine.safetensors"
    arms = {"arms": {"mine": {"model.weights": str(weights)}}, "axes": {}, "start": False}
    weights.write_bytes(b"one")
    before = folders(tmp_path, **arms)
    weights.write_bytes(b"two, longer")
    assert folders(tmp_path, **arms) != before


def test_other_code_is_another_folder_unless_any_code_will_do(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_adastate.studies.planner.code_mark", lambda rooms: "older")
    before = folders(tmp_path, **ONE)
    finish(before["static, seed 0"])
    monkeypatch.undo()
    after = folders(tmp_path, **ONE)
    assert not set(before.values()) & set(after.values())
    plan = Planner(grid(**ONE), tmp_path, any_code=True).plan()
    reused = {each.name: each.folder for each in plan.trainings.values() if each.done}
    assert reused == {"static, seed 0": before["static, seed 0"]}


def test_comments_and_docstrings_are_no_code():
    plain = "def f(x):\n    return x + 1\n"
    told = '"""Module."""\n\ndef f(x):\n    """Add."""\n    # why\n    return (x + 1)\n'
    assert marks._code(plain) == marks._code(told)
    assert marks._code(plain) != marks._code(plain.replace("1", "2"))


def test_the_code_of_a_users_own_class_is_part_of_the_mark(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_study_anchor.py").write_text("class A: ...\n")
    config = {"model": {"init_args": {"anchor": {"class_path": "my_study_anchor.A"}}}}
    before = marks.config_mark(config)
    (tmp_path / "my_study_anchor.py").write_text("class A: x = 1\n")
    assert marks.config_mark(config) != before


def test_stages_start_from_each_other_and_share_what_they_have_in_common(tmp_path):
    found = trainings(
        tmp_path,
        stages={"forced": "toy/causal", "distilled": "toy/adastate"},
        recipe=None,
        axes={"distilled/model.loss.weighting.alpha": [0, 4]},
    )
    assert list(found) == [
        "alpha 0, seed 0, forced",
        "alpha 0, seed 0, distilled",
        "alpha 4, seed 0, distilled",
    ]
    forced, zero, four = found.values()
    assert zero.after is forced
    assert four.after is forced
    assert zero.config["model"]["init_args"]["weights"] == str(forced.weights)
    assert forced.config["model"]["init_args"]["weights"] == "toy/teacher.safetensors"


def test_the_seed_reaches_noise_and_data(tmp_path):
    config = trainings(tmp_path, seeds=[7], **ONE)["static, seed 7"].config
    assert config["seed_everything"] == 7
    assert config["model"]["init_args"]["seed"] == 7
    assert config["data"]["init_args"]["seed"] == 7


def test_a_start_is_scored_once_for_all_that_stream_it_alike(tmp_path):
    axes = {"anchor": ARMS, "model.loss.weighting.alpha": [0, 4]}
    plan = Planner(grid(axes=axes, seeds=[0, 1]), tmp_path).plan()
    rows = [row.name for row in plan.rows if row.seed in (None, 0)]
    assert rows == [
        "start, static",
        "static, alpha 0",
        "static, alpha 4",
        "start, adaptive",
        "adaptive, alpha 0",
        "adaptive, alpha 4",
    ]
    assert {row.start for row in plan.rows if row.arm == "static, alpha 4"} == {"start, static"}
    assert len({row.scores.folder for row in plan.rows}) == 2 + 2 * 4


def test_scores_are_made_again_for_other_episodes_and_trainings_are_not(tmp_path):
    first = Planner(grid(**ONE), tmp_path).plan()
    second = Planner(grid(evaluation=Scoring(seed=9), **ONE), tmp_path).plan()
    assert list(first.trainings) == list(second.trainings)
    both = zip(first.rows, second.rows, strict=True)
    assert all(a.scores.folder != b.scores.folder for a, b in both)


def test_jobs_score_what_they_train_and_starts_train_nothing(tmp_path):
    study = Study(grid(**ONE), tmp_path)
    jobs = {job.name: job for job in study.jobs(study.plan())}
    assert jobs["start"].training is None
    assert [each.name for each in jobs["static, seed 0"].scorings] == ["static, seed 0"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settings": {"model.critic_stpes": 3}}, "the cell 'static' .*critic_stpes"),
        ({"baseline": "EMA"}, "no `baseline` 'EMA'; rows are 'start', 'static'"),
        ({"seed_keys": ["model.sed"]}, "no option 'sed'"),
        ({"evaluation": Scoring(horizons=[3])}, "`horizons` must be"),
        ({"settings": {"model.frame_size": [4, 8]}}, "makes frames of .4, 8. pixels"),
        ({"recipe": "toy/adastat"}, "there is no config 'toy/adastat'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        Study(grid(**{**ONE, **options}), tmp_path).plan()


@pytest.mark.nightly
def test_the_page_s_grids_can_be_planned(tmp_path):
    page = Path(lightning_adastate.__file__).parent.parent / "docs" / "ablate.md"
    whole, stages = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "grid.yaml").write_text(whole)
    (tmp_path / "stages.yaml").write_text(stages)
    rows = {row.name: row.start for row in load_study(str(tmp_path / "grid.yaml")).plan().rows}
    assert rows["alpha 0, static"] == "start, static"
    assert rows["wide window"] == "start, wide window"
    assert rows["alpha 2, adaptive"] == "untrained"  # the same weights, streamed alike
    plan = load_study(str(tmp_path / "stages.yaml")).plan()
    assert {row.name for row in plan.rows} == {
        "start",
        "alpha 0",
        "alpha 0 (forced)",
        "alpha 4",
        "alpha 4 (forced)",
    }


def test_a_grid_file_and_its_overrides_become_a_study(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"recipe": "toy/adastate", "axes": {"model.clip_norm": [1, 2]}}))
    study = load_study(str(file), ["--seeds=[3]", "--evaluation.episodes=5"])
    assert study.grid.seeds == [3]
    assert study.grid.evaluation.episodes == 5
    assert study.output.as_posix() == "runs/mine"
    assert [arm.name for arm in study.grid.study_arms()] == ["clip_norm 1", "clip_norm 2"]
