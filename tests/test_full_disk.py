"""A file that cannot be written whole is named, and nothing of it is left."""

import resource
from pathlib import Path

import pytest
from tiny import GOLDEN

from lightning_adastate.__main__ import main

WEIGHTS = str(GOLDEN / "weights_seed0.safetensors")


@pytest.fixture
def small_files():
    """No file may be larger than 10 KB: what a full disk is to the one who writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("out.safetensors", ()),
        ("out.pt", ("--to=self_forcing",)),
        ("out", ("--to=diffusers", "--num_heads=4")),
        ("sharded", ("--num_heads=4", "--shard_gb=0.0001")),
    ],
)
def test_convert_names_the_file_and_leaves_nothing(target, options, tmp_path, capsys, small_files):
    assert main(["convert", WEIGHTS, str(tmp_path / target), *options]) == 1
    said = capsys.readouterr().err
    assert said == f"error: cannot use '{tmp_path / target}': File too large\n"
    assert list(Path(tmp_path).iterdir()) == []


def test_a_missing_target_is_asked_for_as_it_is_given(capsys):
    assert main(["convert", WEIGHTS]) == 2
    expected = "error: target must be given: lightning_adastate convert SOURCE TARGET\n"
    assert capsys.readouterr().err == expected
