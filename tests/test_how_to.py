"""The how-to pages are run as they stand: their files in an empty folder, their commands one after the other."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_adastate
from lightning_adastate.__main__ import main

ROOT = Path(lightning_adastate.__file__).parent.parent
PAGES = ROOT / "docs" / "how-to"
if not PAGES.exists():
    pytest.skip("no docs in an installed package", allow_module_level=True)
NAMES = sorted(path.stem for path in PAGES.glob("*.md"))
SHORT = {
    "fit": "--trainer.max_steps=2 --trainer.enable_progress_bar=false --trainer.enable_model_summary=false",
    "toy": "--data.num_clips=24 --data.batch_size=4 --data.cache_folder=clips",
    "generate": "--generation.num_chunks=4",
}
"""What makes the pages' long commands short enough to be tried."""


def blocks(page):
    """Languages and code of a page."""
    return re.findall(r"```(\w+)\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)


def files(page):
    """Every block that begins with a file's name, by that name; a text file has it taken off."""
    named = ((re.match(r"# ([\w.]+\.(py|yaml|txt))\n", code), code) for _, code in blocks(page))
    return {
        match[1]: code[match.end() :] if match[2] == "txt" else code
        for match, code in named
        if match
    }


def commands(page):
    """Every line of the shell blocks, continuation lines joined."""
    return [
        line
        for language, code in blocks(page)
        if language == "bash"
        for line in re.sub(r"\\\n\s*", "", code).splitlines()
    ]


def shortened(words):
    """A command of ours with what keeps it short put behind."""
    if words[0] == "fit":
        own = "--data" in words or any(word.startswith("--data.num_clips") for word in words)
        return [*words, *SHORT["fit"].split(), *([] if own else SHORT["toy"].split())]
    if "--generation.duration" in words:
        place = words.index("--generation.duration")
        return [*words[:place], *words[place + 2 :], SHORT["generate"]]
    return words


def run(line):
    """Run one line; ours and Python files in this process, others in a shell. Return its exit code."""
    words = shlex.split(line)
    if (
        "--trainer.devices" in words
    ):  # its processes begin as this one did, which must not be pytest
        line = shlex.join([*words[:3], *shortened(words[3:])])
    elif words[:3] == ["python", "-m", "lightning_adastate"]:
        return main(shortened(words[3:]))
    elif words[0] == "python":
        runpy.run_path(words[1], run_name="__main__")
        return 0
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(line, shell=True, check=False, env=env).returncode


@pytest.mark.parametrize("page", [name for name in NAMES if name.startswith("add-")])
def test_every_page_on_a_component_names_its_class_in_a_command_or_file(page):
    defined = re.findall(r"^class (\w+)\(", "".join(files(page).values()), re.MULTILINE)
    used = [*commands(page), *(code for name, code in files(page).items() if "my_" not in name)]
    assert defined
    assert [name for name in defined if not any(name in text for text in used)] == []


@pytest.mark.nightly
@pytest.mark.parametrize("page", NAMES)
def test_the_pages_commands_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    for name, code in files(page).items():
        (tmp_path / name).write_text(code)
        sys.modules.pop(name.removesuffix(".py"), None)
    for line in commands(page):
        asked, _, expected = line.partition(" || test $? -eq ")
        try:
            code = run(asked)
        except SystemExit as stop:
            code = stop.code or 0
        assert code == int(expected or 0), line
