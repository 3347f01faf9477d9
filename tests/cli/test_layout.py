"""`layout` prints what a configuration attends to, for recipes and for mechanisms alone."""

from pathlib import Path

import pytest
import yaml

from lightning_adastate.__main__ import main
from lightning_adastate.recipes.mechanism import read_config
from lightning_adastate.recipes.names import config_root

ROOT = config_root()
MECHANISMS = sorted(path.stem for path in (ROOT / "mechanisms").glob("*.yaml"))


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_mechanism_is_laid_out(name, capsys):
    assert main(["layout", "--config", f"mechanisms/{name}", "--chunks", "2"]) == 0
    assert "TFLOP" in capsys.readouterr().out


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("base", ["toy/adastate", "mechanisms/deep_forcing"])
def test_a_mechanism_goes_on_top_of_another(base, name, capsys):
    """What is printed is the mechanism's alone; nothing of the other's arguments breaks it."""
    coarse = ["--chunks=3", "--geometry.rows=4", "--geometry.columns=8"]
    for below in ([], ["--config", base]):
        assert main(["layout", *below, "--config", f"mechanisms/{name}", *coarse]) == 0
    out = capsys.readouterr().out
    assert out[: len(out) // 2] == out[len(out) // 2 :]


# Only the sizes of PackForcing are ours; the recipe counts the packed frames into its budget.
@pytest.mark.parametrize("name", MECHANISMS)
def test_the_large_recipe_of_a_mechanism_attends_to_the_same(name, capsys):
    coarse = ["--chunks=9", "--geometry.rows=1", "--geometry.columns=1"]
    for config in (f"mechanisms/{name}", f"wan1.3b/{name}"):
        assert main(["layout", "--config", config, *coarse, "--timeline=[]"]) == 0
    out = capsys.readouterr().out
    assert out[: len(out) // 2] == out[len(out) // 2 :]


def test_a_recipe_is_laid_out_and_drawn(capsys, tmp_path):
    picture = tmp_path / "layout.png"
    asked = ["--config", "toy/adastate", "--chunks=4", f"--picture={picture}"]
    assert main(["layout", *asked]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("│ 3"))
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[2:6] == ["s2 @ 0", "6-8 @ 2..4", "s3 @ 1", "9-11 @ 5..7"]
    assert cells[6:] == ["8", "2.30", "152.8"]
    assert picture.stat().st_size


def test_options_and_later_configurations_win(capsys):
    asked = [
        "--config",
        "toy/adastate",
        "-c=mechanisms/reward_forcing",
        "--model.anchor.decay=0.5",
    ]
    assert main(["layout", *asked, "--chunks=4"]) == 0
    out = capsys.readouterr().out
    assert "(50% 0 + 50% 3) @ 0" in out
    assert "s2" not in out.split("7' was")[0]


def test_a_change_of_class_inherits_nothing(capsys):
    asked = ["--config", "mechanisms/longlive", "--model.anchor=EMAAnchor", "--chunks=5"]
    assert main(["layout", *asked]) == 0
    assert "(99% 0 + 1% 3) @ 0" in capsys.readouterr().out


def test_a_timeline_is_shown(capsys):
    change = "--timeline=[{chunk: 5, prompt: storm, policy: recache}]"
    assert main(["layout", "--config", "mechanisms/longlive", "--chunks=6", change]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "prompt 1" in out
    assert "9'-14' @ 9..14" in out


def test_a_configurations_own_timeline_counts(capsys):
    assert main(["layout", "--config", "mechanisms/causvid", "--chunks=8"]) == 0
    assert "18'-20' @ 18..20" in capsys.readouterr().out


def test_another_geometry_changes_the_costs_alone(capsys):
    asked = ["layout", "--config", "mechanisms/longlive", "--chunks=2"]
    assert main([*asked, "--geometry.num_layers=15"]) == 0
    assert "0.86 GB of keys and values" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--config", "mechanisms/none"], "there is no config"),
        (["--config", "losses/dmd"], "has no `model`"),
        (["--config"], "config"),
        ([], "model"),
        (["--config", "mechanisms/longlive", "--chunks=0"], "num_chunks"),
        (["--config", "mechanisms/longlive", "--picture=a.jpg"], ".png"),
        (["--config", "mechanisms/longlive", "--model.cache.budget_frames=4"], "budget_frames"),
    ],
)
def test_mistakes_are_one_sentence(asked, said, capsys):
    assert main(["layout", *asked]) != 0
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_relative_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = read_config("mechanisms/adastate")["parts"]
    assert yaml.safe_load(Path(parts["anchor"]).read_text())["class_path"] == "AdaptiveAnchor"
