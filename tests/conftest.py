"""What every test gets: a fixed seed, one thread, nothing from the network, GPU tests only with a GPU."""

import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tiny tensors: more threads only wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def pytest_configure(config):
    """With ``-m gpu`` alone look at tests/gpu alone: a bare GPU machine has not what the other files import."""
    asked_nothing = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if config.option.markexpr == "gpu" and asked_nothing:
        config.args = [os.path.join(os.path.dirname(__file__), "gpu")]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def script(monkeypatch):
    """Import benchmarks' scripts as they import each other, and forget them afterwards."""
    names = [path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "__main__"]
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    held = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(held)
