"""Configuration files that are none are refused by name, before a parser hangs on them."""

import time
from pathlib import Path

import pytest

from lightning_adastate.__main__ import main
from lightning_adastate.recipes.names import config_root
from lightning_adastate.recipes.yaml_file import check_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Nine lines that stand for a billion values."""

FILES = {
    "bomb": (BOMB.encode(), "stands for more than 100000 values in line 5"),
    "itself": (b"a: &a [1, *a]", "refers to itself in line 1"),
    "large": (b"# " + b"x" * 1_000_001, "has 1000003 bytes; a configuration has at most 1000000"),
    "binary": (b"\x00\xff\x80", "is no UTF-8 text: invalid start byte at byte 1"),
    "control": (b"a: \x00", "is no valid YAML: position 3: special characters"),
    "latin-1": ("model: caf\xe9 au lait".encode("latin-1"), "is no UTF-8 text"),
    "bracket": (b"model: [1, 2\nx: }{", "is no valid YAML: line 2, column 2: expected ','"),
    "tab": (b"model:\n\tx: 1\n", r"line 2, column 1: found character '\t'"),
    "twice": (b"model: 1\nmodel: 2\n", "has 'model' twice, in lines 1 and 2"),
    "deep": (b"[" * 900_000, "is nested too deeply"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_configuration_is_one_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text, said = FILES[name]
    Path("odd.yaml").write_bytes(text)
    begun = time.process_time()
    for verb in ("layout", "generate"):
        assert main([verb, "--config", "odd.yaml"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: the config 'odd.yaml' ")
        assert said in error
        assert error.count("\n") == 1
        assert "unicode string" not in error
    assert time.process_time() - begun < 5.0


def test_a_component_file_is_looked_at_wherever_it_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("odd.yaml").write_text(BOMB)
    Path("recipe.yaml").write_text("model: {init_args: {anchor: odd.yaml}}")
    for arguments in (["--config=recipe.yaml"], ["--model.anchor=odd.yaml"]):
        assert main(["generate", "--config=toy/adastate", *arguments]) == 2
        assert "the config 'odd.yaml' stands for more" in capsys.readouterr().err


def test_files_that_name_each_other_end(tmp_path):
    (tmp_path / "a.yaml").write_text("x: b.yaml")
    (tmp_path / "b.yaml").write_text("x: a.yaml")
    check_yaml(tmp_path / "a.yaml")


def test_every_shipped_configuration_passes():
    for path in config_root().rglob("*.yaml"):
        check_yaml(path)
