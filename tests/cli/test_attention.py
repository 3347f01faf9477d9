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
        (["--chunks=1"], "no pass of 1 chunks reads a cached frame"),
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
