"""Every configuration in configs/ parses; every recipe trains and streams at toy size."""

import importlib
from pathlib import Path

import pytest
import torch
import yaml
from families import FAMILIES
from lightning.pytorch import LightningDataModule
from torch import nn

from lightning_adastate.__main__ import main
from lightning_adastate.backbones import Backbone
from lightning_adastate.recipes.comparison import comparison_parser
from lightning_adastate.recipes.loading import import_families
from lightning_adastate.recipes.names import config_root
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.recipes.replay import replay_parser
from lightning_adastate.recipes.trajectories import trajectories_parser
from lightning_adastate.studies.loading import load_study

ROOT = config_root()


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.yaml"))
COMPONENTS = [name for name in FILES if "class_path" in read(name)]
RECIPES = [
    name.removesuffix(".yaml") for name in FILES if "class_path" in read(name).get("model", {})
]
COMPARISONS = [name for name in FILES if "anchors" in read(name)]
REPLAYS = [name for name in FILES if name.startswith("replay/") and name not in COMPONENTS]
TRAJECTORIES = [name for name in FILES if "ode_steps" in read(name)]
MECHANISMS = [name for name in FILES if name.startswith("mechanisms/")]
ABLATIONS = [name for name in FILES if name.startswith("ablations/")]
GRIDS = [name for name in FILES if name.startswith("grids/")]
# tests/cli/test_trajectories.py makes the trajectories first, and trains on them.
FROM_TRAJECTORIES = ("toy/causal_ode", "toy/ode")
# tests/test_wan_recipes.py runs the large ones at tiny size.
SMALL = [name for name in RECIPES if not name.startswith("wan1.3b/")]
# Building these fetches weights; tests/codecs/ builds them at tiny size.
FETCHED = ("codecs/tiny.yaml", "codecs/wan.yaml")
WEIGHTS = ("weights", "teacher_weights", "critic_weights")


def base_of(name):
    """The type a component's file is a value of, by its folder."""
    folder = name.partition("/")[0]
    if folder in FAMILIES:
        return getattr(importlib.import_module(f"lightning_adastate.{folder}"), FAMILIES[folder])
    return {"losses": nn.Module, "toy": LightningDataModule, "replay": Backbone}[folder]


def model_of(recipe):
    return read(f"{recipe}.yaml")["model"]["init_args"]


def without_weights(recipe):
    """Recipes start from trained files; at toy size any weights will do."""
    return [f"--model.{name}=null" for name in WEIGHTS if name in model_of(recipe)]


def test_there_are_configurations():
    assert {"toy/adastate", "toy/teacher", "toy/causal"} <= set(RECIPES)
    assert REPLAYS
    assert (
        sorted(
            [
                *COMPONENTS,
                *COMPARISONS,
                *REPLAYS,
                *TRAJECTORIES,
                *MECHANISMS,
                *ABLATIONS,
                *GRIDS,
                *(f"{name}.yaml" for name in RECIPES),
            ]
        )
        == FILES
    )


@pytest.mark.parametrize("name", FILES)
def test_a_comment_says_what_it_is(name):
    assert (ROOT / name).read_text().startswith("# ")


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_builds(name):
    import_families()
    parser = SentenceParser(exit_on_error=False)
    parser.add_subclass_arguments(base_of(name), "part")
    parsed = parser.parse_args([f"--part={ROOT / name}"])
    if name in FETCHED:
        return
    # Wan's own sizes would need up to 57 GB.
    with torch.device("meta" if name.startswith("backbones/wan") else "cpu"):
        built = parser.instantiate_classes(parsed)
    assert type(built.part).__name__ == read(name)["class_path"]


@pytest.mark.parametrize("recipe", SMALL)
def test_recipe_parses(recipe, capsys):
    assert main(["fit", "--config", recipe, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["class_path"].endswith(read(f"{recipe}.yaml")["model"]["class_path"])


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_goes_on_top_of_a_recipe(name, capsys):
    base = "toy/diagonal" if name.startswith("ablations/diagonal") else "toy/adastate"
    assert main(["fit", "--config", base, "--config", name, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]

    def inside(part, whole):
        return all(
            inside(value, whole[key])
            if isinstance(value, dict) and key != "class_path"
            else whole[key] == value or str(whole[key]).endswith(str(value))
            for key, value in part.items()
        )

    assert inside(read(name)["model"]["init_args"], printed)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if "smoke" in n else [pytest.mark.nightly]) for n in GRIDS],
)
def test_every_cell_of_a_grid_parses(name, tmp_path):
    study = load_study(str(ROOT / name), ["--seeds=[0]"], output=tmp_path)
    assert {row.name for row in study.plan().rows} > {a.name for a in study.grid.study_arms()}


@pytest.mark.parametrize("name", REPLAYS)
def test_replay_config_parses(name):
    parser = replay_parser()
    parser.exit_on_error = False
    config = parser.parse_args([f"--config={ROOT / name}"])
    assert config.model.anchor.class_path


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison_parses(name):
    import_families()
    parser = comparison_parser()
    parser.exit_on_error = False
    assert set(parser.parse_args([f"--config={ROOT / name}"]).anchors) >= {"none", "static"}


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_trajectories_parse(name):
    import_families()
    parser = trajectories_parser()
    parser.exit_on_error = False
    assert parser.parse_args([f"--config={ROOT / name}"]).output


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in SMALL if name not in FROM_TRAJECTORIES])
def test_recipe_trains(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Lightning saves `last.ckpt` even then
    options = ["--trainer.fast_dev_run=2", "--trainer.accelerator=cpu", "--data.batch_size=4"]
    data = ["--data.num_clips=12", "--data.video_frames=24", f"--data.cache_folder={tmp_path}"]
    assert main(["fit", "--config", recipe, *options, *data, *without_weights(recipe)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SMALL)
def test_recipe_streams(recipe, tmp_path):
    video = tmp_path / "video.mp4"
    asked = ["--generation.prompts=drifting slowly west", "--generation.num_chunks=1"]
    where = [f"--generation.output={video}", "--trainer.accelerator=cpu"]
    weights = [part for part in without_weights(recipe) if ".weights" in part]
    assert main(["generate", "--config", recipe, *asked, *where, *weights]) == 0
    assert video.stat().st_size


def test_shipped_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "toy/adastate.yaml", "--print_config"]) == 0
    assert (
        main(
            ["fit", "--config", "toy/adastate", "--model.anchor", "anchors/ema", "--print_config"]
        )
        == 0
    )


def test_a_local_file_wins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("anchors").mkdir()
    local = "class_path: StaticAnchor\ninit_args: {num_frames: 7}\n"
    Path("anchors/ema.yaml").write_text(local)
    main(["fit", "--config", "toy/adastate", "--model.anchor=anchors/ema.yaml", "--print_config"])
    anchor = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["anchor"]
    assert anchor["init_args"] == {"num_frames": 7}
