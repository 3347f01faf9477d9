"""Tests for a card run on a bare machine: torch, a few small wheels, and nothing that reads data or trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

NOT_THERE = (
    "av",
    "lightning",
    "jsonargparse",
    "torchdata",
    "diffusers",
    "transformers",
    "matplotlib",
    "rich",
)

COLLECT = """
import sys
sys.modules.update(dict.fromkeys({missing!r}))
import pytest
sys.exit(pytest.main(["-m", "gpu", "--collect-only", "-q", "-p", "no:cacheprovider"]))
"""


def test_what_needs_a_card_stands_where_a_bare_machine_looks():
    mark = "mark." + "gpu"
    elsewhere = [
        path.name
        for path in TESTS.rglob("test_*.py")
        if mark in path.read_text() and path.parent.name != "gpu"
    ]
    assert elsewhere == []


@pytest.mark.slow
def test_the_tests_for_a_card_are_collected_without_data_packages():
    done = subprocess.run(
        [sys.executable, "-c", COLLECT.format(missing=NOT_THERE)],
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("tests/gpu/test_") >= 10
