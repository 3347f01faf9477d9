"""The how-to pages are run as they stand: their files in an empty folder, their commands one after the other."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_adastate
from lightning_adastate.__main__ import main

PAGES = Path(lightning_adastate.__file__).parent.parent / "docs" / "how-to"
if not PAGES.exists():
    pytest.skip("no docs in an installed package", allow_module_level=True)
NAMES = sorted(path.stem for path in PAGES.glob("*.md"))
SMALL = """\
--trainer.max_steps=2 --trainer.accelerator=cpu --trainer.enable_progress_bar=false
--trainer.enable_model_summary=false --trainer.logger.save_dir=runs
""".split()  # noqa: SIM905
TINY_DATA = ["--data.num_clips=24", "--data.batch_size=4", "--data.cache_folder=clips"]


def blocks(page):
    """Languages and code of a page."""
    return re.findall(r"```(\w+)\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)


def files(page):
    """Every block that begins with a file's name, by that name."""
    named = ((re.match(r"# ([\w.]+\.(?:py|yaml|txt))\n", code), code) for _, code in blocks(page))
    return {match[1]: code for match, code in named if match}


def commands(page):
    """Every line of the shell blocks as words, continuation lines joined, comments dropped."""
    return [
        words
        for language, code in blocks(page)
        if language == "bash"
        for line in code.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True))
    ]


def sources(page):
    """The page's Python files."""
    return {name: code for name, code in files(page).items() if name.endswith(".py")}


@pytest.mark.parametrize("page", [name for name in NAMES if name.startswith("add-")])
def test_every_page_on_a_component_defines_one_that_its_commands_name(page):
    names = re.findall(r"^class (\w+)\(", "".join(sources(page).values()), re.MULTILINE)
    used = " ".join(" ".join(words) for words in commands(page)) + "".join(files(page).values())
    assert names
    assert all(used.count(name) > 1 or f".{name}" in used for name in names), names
