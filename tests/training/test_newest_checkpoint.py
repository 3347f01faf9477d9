"""``last`` is the newest whole checkpoint of this run's folder, or a refusal; never a new beginning."""

import os
import shutil

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from training_toy import ClipData, flow_matching, trainer

from lightning_adastate.training.resuming import newest_checkpoint, read_training


def recipe(**init_args):
    """A configuration as it stands in a checkpoint."""
    model = {"class_path": "FlowMatching", "init_args": {"seed": 0, "noise": None, **init_args}}
    return yaml.safe_dump({"model": model, "data": None, "trainer": {"max_steps": 5}})


def run_in(folder, *, version=None, **options):
    """A trainer and a module of the run in a folder."""
    logger = CSVLogger(folder / "runs", "toy", version=version)
    module = flow_matching()
    module.recipe_text = recipe()
    return trainer(folder, logger=logger, enable_checkpointing=True, **options), module


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of the run; ``leave`` puts copies where runs leave theirs, each newer than the last."""
    run = trainer(tmp_path, max_steps=1)
    module = flow_matching()
    module.recipe_text = recipe()
    run.fit(module, ClipData(4, val_count=0))
    run.save_checkpoint(tmp_path / "saved", weights_only=False)
    return tmp_path / "saved"


@pytest.fixture
def leave(saved, tmp_path):
    made = []

    def leave(name, text=None, **changes):
        path = tmp_path / "runs/toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(saved, path)
        if text is not None:
            torch.save({**torch.load(saved, weights_only=True), "config": text}, path)
        made.append(path)
        os.utime(path, (len(made), len(made)))
        return path

    return leave


def test_it_is_the_newest_of_all_versions_whatever_its_name(leave, tmp_path):
    leave("version_3/checkpoints/last.ckpt")
    newest = leave("version_0/checkpoints/stopped.ckpt")
    assert newest_checkpoint(*run_in(tmp_path)) == newest
    asked_for = newest_checkpoint(*run_in(tmp_path, version=3))
    assert asked_for.parts[-3:] == ("version_3", "checkpoints", "last.ckpt")


def test_it_is_in_the_folder_that_a_callback_names(leave, tmp_path):
    leave("version_0/checkpoints/last.ckpt")
    (tmp_path / "mine").mkdir()
    shutil.copy(tmp_path / "saved", tmp_path / "mine/one.ckpt")
    saves = [ModelCheckpoint(tmp_path / "mine")]
    assert newest_checkpoint(*run_in(tmp_path, callbacks=saves)) == tmp_path / "mine/one.ckpt"


def test_what_is_cut_short_or_holds_weights_alone_is_passed_over(leave, tmp_path, caplog):
    whole = leave("version_0/checkpoints/last.ckpt")
    cut = leave("version_1/checkpoints/last.ckpt")
    cut.write_bytes(cut.read_bytes()[:5000])
    weights = leave("version_2/checkpoints/last.ckpt")
    torch.save({"state_dict": {}}, weights)
    assert newest_checkpoint(*run_in(tmp_path)) == whole
    assert str(cut) in caplog.text
    assert str(weights) in caplog.text
    whole.unlink()
    with pytest.raises(ValueError, match="there is no whole checkpoint in"):
        newest_checkpoint(*run_in(tmp_path))


def test_where_there_is_none_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint in '.*version_0/checkpoints'"):
        newest_checkpoint(*run_in(tmp_path))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seed": 3}, "model.init_args.seed = 3, not 0"),
        ({"noise": {"class_path": "Mine"}}, "model.init_args.noise = Mine, not None"),
    ],
)
def test_runs_with_other_settings_in_the_same_folder_are_other_runs(other, said, leave, tmp_path):
    ours = leave(
        "version_0/checkpoints/last.ckpt", recipe().replace("max_steps: 5", "max_steps: 9")
    )
    theirs = leave("version_1/checkpoints/last.ckpt", recipe(**other))
    assert newest_checkpoint(*run_in(tmp_path)) == ours
    ours.unlink()
    with pytest.raises(ValueError, match=f"{theirs}, was made with {said}; .* give its path"):
        newest_checkpoint(*run_in(tmp_path))


def test_an_option_that_a_later_version_added_makes_no_other_run(leave, tmp_path):
    older = yaml.safe_load(recipe())
    del older["model"]["init_args"]["noise"]
    path = leave("version_0/checkpoints/last.ckpt", yaml.safe_dump(older))
    assert newest_checkpoint(*run_in(tmp_path)) == path


def test_a_checkpoint_of_weights_alone_is_passed_over_and_named_as_such(leave, tmp_path):
    """Lightning's `save_weights_only` leaves loops in the file, but no optimiser to go on with."""
    whole = leave("version_0/checkpoints/last.ckpt")
    newer = leave("version_0/checkpoints/weights.ckpt")
    kept = torch.load(newer, weights_only=True)
    del kept["optimizer_states"]
    torch.save(kept, newer)
    assert newest_checkpoint(*run_in(tmp_path)) == whole
    with pytest.raises(ValueError, match="holds no training to resume; .* `--model.weights`"):
        read_training(newer)
