"""What every test gets: a fixed seed, one thread, nothing from the network, GPU tests only with a GPU."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tiny tensors: more threads only wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch


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
