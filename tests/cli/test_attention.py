"""`attention` measures a recipe's stream, and writes what it found."""

import json

import pytest

from lightning_adastate.__main__ import main

RECIPE = ["attention", "--config", "toy/adastate", "--weights", "toy/generator.safetensors"]


def test_shares_are_printed_and_written(tmp_path, capsys):
    out = tmp_path / "new" / "place"
    (tmp_path / "prompts.txt").write_text("west\neast\n")
    asked = [f"--prompts={tmp_path / 'prompts.txt'}", "--chunks=4", f"--output={out}"]
    assert main([*RECIPE, *asked]) == 0
    assert {path.name for path in out.iterdir()} == {"attention.json", "attention.png"}
    seen = json.loads((out / "attention.json").read_text())
    assert [mass["chunk"] for mass in seen] == [1] * 5 + [2] * 5 + [3] * 5
    last = seen[-1]
    assert [frame["role"] for frame in last["frames"]] == ["anchor", *["cached"] * 3]
    for layer in last["share"]:
        for head in layer:
            assert sum(head) == pytest.approx(1.0, abs=1e-5)
    assert "its place" in capsys.readouterr().out


def test_anchors_are_swapped_as_elsewhere(tmp_path):
    asked = ["--model.anchor=anchors/none", "--prompts=west", "--chunks=3", f"--output={tmp_path}"]
    assert main([*RECIPE, *asked]) == 0
    seen = json.loads((tmp_path / "attention.json").read_text())
    assert all(frame["role"] == "cached" for mass in seen for frame in mass["frames"])


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["--chunks=1"], "the first that does is in chunk 1: ask for 2 or more `--chunks`"),
        (
            ["--model.anchor=anchors/none", "--model.cache.window_frames=3"],
            "no pass of this configuration reads a frame from memory: StaticAnchor shows none",
        ),
        (["--device=banana"], "`device` must be auto, cpu, cuda, cuda:N or mps, got 'banana'"),
        (["--device=cuda:99"], "`device` is 'cuda:99', and this machine has"),
        (["--chunks=0"], "`num_chunks` must be 1 or more, got 0"),
        (["--weights=nowhere.pt"], "there is no weights file 'nowhere.pt'"),
    ],
)
def test_what_cannot_be_measured_is_refused_and_leaves_nothing(tmp_path, capsys, asked, sentence):
    out = tmp_path / "out"
    assert main([*RECIPE, "--prompts=west", *asked, f"--output={out}"]) == 1
    assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_prompts_that_are_not_there_are_asked_for(capsys):
    assert main(RECIPE) == 2
    assert capsys.readouterr().err == "error: prompts must be given: --prompts ...\n"


def test_without_a_recipe_one_is_asked_for(capsys):
    assert main(["attention", "--prompts=x"]) == 2
    assert "model must be given; name a recipe with --config" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_found_before_anything_streams(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*RECIPE, "--prompts=x", "--chunks=2", f"--output={tmp_path / 'file'}"]) == 1
    said = capsys.readouterr()
    assert "cannot make the folder" in said.err
    assert "streaming" not in said.out
