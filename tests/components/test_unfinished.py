"""What an author of a component has left out is said in one sentence that names it."""

import traceback
from pathlib import Path

import pytest

from lightning_adastate import load_mechanism, load_module
from lightning_adastate.recipes.errors import one_sentence

OWN = """
from lightning_adastate.anchors import Anchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.schedules import FewStepSchedule

class NoSuper(StaticAnchor):
    def __init__(self, num_frames: int = 1):
        self.num_frames = num_frames

class NoSuperSchedule(FewStepSchedule):
    def __init__(self, chunk_frames: int = 3):
        self.chunk_frames = chunk_frames

class NoSuperCache(RelativisticCache):
    def __init__(self, *, window_frames: int = 6):
        self.window_frames = window_frames

class NoRead(Anchor):
    def __init__(self, num_frames: int = 1):
        super().__init__(num_frames)

class Typo(StaticAnchor):
    def __init__(self, num_frames: int = 1):
        super().__init__(num_frames)
        self.size = self.num_frmes

class Missing(StaticAnchor):
    def __init__(self, num_frames: int = 1):
        super().__init__(num_frames)
        self.size = {}["size"]

class Whole(StaticAnchor):
    pass
"""

UNFINISHED = {
    "model.anchor=unfinished.NoSuper": r"unfinished.NoSuper lacks .* begin with super\(\).__init__",
    "model.schedule=unfinished.NoSuperSchedule": r"lacks what its base class sets \(`first_chunk_frames`\)",
    "model.cache=unfinished.NoSuperCache": r"lacks what its base class sets \(`budget_frames`\)",
    "model.anchor=unfinished.NoRead": r"unfinished.NoRead does not define `absorb`, `read`, which",
    "model.anchor=unfinished.Typo": r"Typo cannot be built: AttributeError .*'num_frmes' \(unfinished.py, line 25\)",
    "model.anchor=unfinished.Missing": r"cannot be built: KeyError 'size' \(unfinished.py, line 30\)",
    "model.anchor=unfinished.Whloe": r"no attribute 'Whloe'; did you mean unfinished.Whole\?",
    "model.anchor=unfinishd.Whole": r"cannot import 'unfinishd.Whole': No module named 'unfinishd'",
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file of an author's own, that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    Path(tmp_path / "unfinished.py").write_text(OWN)


@pytest.mark.parametrize("override", UNFINISHED)
def test_an_authors_mistake_is_named(own, override):
    with pytest.raises(ValueError, match=UNFINISHED[override]) as caught:
        load_mechanism("mechanisms/longlive", [f"--{override}"])
    assert "\n" not in str(caught.value)


def test_a_class_that_is_whole_is_built(own):
    made = load_mechanism("mechanisms/longlive", ["--model.anchor=unfinished.Whole"])
    assert type(made.anchor).__name__ == "Whole"


def test_a_misspelt_class_from_python_leaves_no_trace_of_the_parser():
    with pytest.raises(ValueError, match="did you mean EMAAnchor") as caught:
        load_module("toy/adastate", overrides=["--model.anchor=EMAAnchr"])
    shown = "".join(traceback.format_exception(caught.value))
    assert "jsonargparse" not in shown.replace("JSONARGPARSE_DEBUG", "")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("WanCodec needs diffusers", "WanCodec needs diffusers"),
        ("UMT5 is large", "UMT5 is large"),
        ("Value is too large", "value is too large"),
    ],
)
def test_the_name_of_a_class_keeps_its_capital(said, sentence):
    assert one_sentence(f'Parser key "model.codec": {said}') == f"model.codec: {sentence}"
