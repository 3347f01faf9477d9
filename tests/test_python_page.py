"""docs/python.md runs as it stands, from top to bottom: what a verb does takes a few lines of Python."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import lightning_adastate
from lightning_adastate import FlowMatching, SelfForcing, load_recipe
from lightning_adastate.__main__ import main

PAGE = Path(lightning_adastate.__file__).parent.parent / "docs" / "python.md"
if not PAGE.exists():
    pytest.skip("no docs in an installed package", allow_module_level=True)
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """An empty folder, and the names of all blocks after they have run in it."""
    folder = tmp_path_factory.mktemp("page")
    names = {"__name__": "page"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, code in enumerate(BLOCKS):
            exec(compile(code, f"{PAGE.name}, block {number}", "exec"), names)  # noqa: S102
        yield folder, names


def test_every_block_runs_and_leaves_what_it_says(workplace):
    folder, names = workplace
    assert {"two.ckpt", "west.mp4", "west.safetensors", "two.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    assert list((folder / "trajectories").glob("*.safetensors"))
    assert names["chunks"][-1].index == 7
    assert type(names["module"]).__name__ == "StreamModule"


def test_a_plain_trainer_leaves_the_callbacks_configuration_and_random_states_of_the_command_line(
    workplace,
):
    folder, names = workplace
    saved = torch.load(folder / "two.ckpt", weights_only=True)
    assert saved["config"].startswith("seed_everything: 0")
    assert len(saved["random_states"]) == 1
    kinds = [type(callback).__name__ for callback in names["trainer"].callbacks]
    assert {"ExactResume", "GracefulStop"} <= set(kinds)


def test_a_plain_trainer_learns_what_the_command_line_learns(workplace):
    folder, names = workplace
    options = ["--trainer.logger.save_dir=cli", "--trainer.enable_progress_bar=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config=toy/adastate", *names["short"], *options]) == 0
    (last,) = (folder / "cli").rglob("last.ckpt")
    ours, theirs = (torch.load(path, weights_only=True) for path in (folder / "two.ckpt", last))
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor), name


def test_a_checkpoint_of_another_class_is_refused(workplace):
    with pytest.raises(ValueError, match="is of a SelfForcing, not of a FlowMatching"):
        FlowMatching.load_from_checkpoint(workplace[0] / "two.ckpt")


def test_a_checkpoint_without_a_configuration_says_what_to_do(workplace, tmp_path):
    saved = torch.load(workplace[0] / "two.ckpt", weights_only=True)
    del saved["config"]
    torch.save(saved, tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="holds no configuration"):
        SelfForcing.load_from_checkpoint(tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="holds no configuration"):
        load_recipe(tmp_path / "bare.ckpt")


def test_what_a_checkpoint_streams_is_its_average(workplace):
    folder, names = workplace
    saved = torch.load(folder / "two.ckpt", weights_only=True)["state_dict"]
    written = load_file(folder / "two.safetensors")
    assert written.keys() == names["module"].streamer.backbone.state_dict().keys()
    for name, tensor in written.items():
        assert torch.equal(saved[f"generator_ema.backbone.{name}"], tensor)


@pytest.mark.parametrize("how", ["recipe", "class"])
def test_a_checkpoint_brings_its_critic(workplace, how):
    """It is built in `setup`, after the weights were loaded: it would start anew without a word."""
    path = workplace[0] / "two.ckpt"
    module = (
        load_recipe(path).module if how == "recipe" else SelfForcing.load_from_checkpoint(path)
    )
    module.setup("validate")
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert sum(name.startswith("critic.") for name in saved) > 100
    for name, tensor in module.critic.state_dict().items():
        assert torch.equal(saved[f"critic.{name}"], tensor), name


def test_a_critic_of_another_kind_is_refused(workplace, tmp_path):
    saved = torch.load(workplace[0] / "two.ckpt", weights_only=True)
    weights = saved["state_dict"]
    weights["critic.other"] = torch.zeros(1)
    torch.save(saved, tmp_path / "other.ckpt")
    module = SelfForcing.load_from_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"critic is another network, see critic\.other"):
        module.setup("validate")


def without_its_first_weights(folder, tmp_path, *, base=True):
    """The checkpoint of a run whose file of first weights is gone; perhaps itself without a parameter."""
    saved = torch.load(folder / "two.ckpt", weights_only=True)
    config = yaml.safe_load(saved["config"])
    config["model"]["init_args"]["weights"] = str(tmp_path / "gone.safetensors")
    saved["config"] = yaml.safe_dump(config)
    if not base:
        del saved["state_dict"]["generator.backbone.head.modulation"]
    torch.save(saved, tmp_path / "moved.ckpt")
    return tmp_path / "moved.ckpt"


@pytest.mark.parametrize("load", [load_recipe, SelfForcing.load_from_checkpoint])
def test_a_checkpoint_outlives_the_weights_it_began_with(workplace, tmp_path, load):
    load(without_its_first_weights(workplace[0], tmp_path))


@pytest.mark.parametrize("load", [load_recipe, SelfForcing.load_from_checkpoint])
def test_lost_weights_that_a_checkpoint_does_not_hold_are_named(workplace, tmp_path, load):
    path = without_its_first_weights(workplace[0], tmp_path, base=False)
    with pytest.raises(ValueError, match=r"gone\.safetensors', which are not there any more"):
        load(path)
