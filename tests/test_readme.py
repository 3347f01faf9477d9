"""The README's code runs: Python blocks as they stand, commands in this process."""

import os
import re
import shlex
from pathlib import Path

import pytest

import lightning_adastate
from lightning_adastate.__main__ import main
from lightning_adastate.recipes.names import config_root

ROOT = Path(lightning_adastate.__file__).parent.parent
README = ROOT / "README.md"
BLOCKS = re.findall(
    r"```(\w+)\n(.*?)```", README.read_text() if README.exists() else "", re.DOTALL
)
PYTHON = [code for language, code in BLOCKS if language == "python"]
PROGRAMS = ("python -m lightning_adastate ", "lightning-adastate ")

if not README.exists():
    pytest.skip("no README in an installed package", allow_module_level=True)


def commands():
    """Every command of ours in the shell blocks, continuation lines joined, comments dropped."""
    for language, code in BLOCKS:
        if language not in {"bash", "sh", "shell", "console"}:
            continue
        for line in code.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            for program in PROGRAMS:
                if line.startswith(program):
                    yield line.removeprefix(program)


COMMANDS = list(commands())


def make_targets():
    """Every `make X` of the shell blocks."""
    return {
        target
        for language, code in BLOCKS
        if language in {"bash", "sh"}
        for target in re.findall(r"^\s*make (\w+)", code, re.MULTILINE)
    }


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_block_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {"__name__": "readme"})  # noqa: S102


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command, capsys):
    words = shlex.split(command, comments=True)
    if words[0] in {"fit", "validate", "test", "predict", "generate"} and "--help" not in words:
        words.append("--print_config")
    else:
        words = [words[0], "--help"]
    assert main(words) == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command, tmp_path, monkeypatch):
    words = shlex.split(command, comments=True)
    if words[0] == "fit":
        words += [
            "--trainer.fast_dev_run=2",
            "--data.num_clips=24",
            f"--data.cache_folder={tmp_path}",
        ]
    elif words[0] == "generate":
        words += ["--generation.num_chunks=2"]
    else:
        pytest.skip("tested where the verb is tested")
    for name in ("configs", "tests"):
        if (ROOT / name).exists():
            os.symlink(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0


def test_make_targets_exist():
    rules = (ROOT / "Makefile").read_text()
    assert make_targets() >= {"demo", "test"}
    for target in make_targets():
        assert re.search(rf"^{target}:", rules, re.MULTILINE), target


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", README.read_text()):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_configs_it_is_about_are_there():
    assert config_root().is_dir()
