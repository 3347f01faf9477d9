"""A component's fingerprint is made from its constructor's arguments, whatever the class does with them."""

import copy
import inspect
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from families import each
from jsonargparse import ArgumentParser
from torch import nn

from lightning_adastate.anchors import (
    Anchor,
    ComposedAnchor,
    EMAAnchor,
    PooledEMAAnchor,
    StaticAnchor,
)
from lightning_adastate.backbones import LoRABackbone, WanTransformer
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.components import Component, describe
from lightning_adastate.noise import CounterNoise, NoiseKey, RecordedNoise
from lightning_adastate.schedules import FewStepSchedule


class MarginAnchor(StaticAnchor):
    """A third party's anchor: no `extra_repr`, and nothing kept under the argument's name."""

    def __init__(self, num_frames: int = 2, *, margin: float = 0.1) -> None:
        super().__init__(num_frames)
        self.limit = 2.0 * margin


class ForwardingAnchor(MarginAnchor):
    """Forwards what it does not know.

    Args:
        gain: Its own.
    """

    def __init__(self, gain: float = 1.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.gain = gain


class OwnDefaultAnchor(MarginAnchor):
    """Names an argument of its parent again, and forwards the others."""

    def __init__(self, margin: float = 0.2, **kwargs) -> None:
        super().__init__(margin=margin, **kwargs)


class Mixin:
    """Defines the constructor for the class it is mixed into."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__(2)
        self.gain = gain


class MixedAnchor(Mixin, StaticAnchor):
    """Its constructor is not an anchor's."""


class Shuffle(Component):
    """Changes the list it was given."""

    def __init__(self, parts: list[int]) -> None:
        parts.reverse()


class Takes(Component):
    """Takes anything."""

    def __init__(self, value: object = None) -> None:
        del value


class Shade(Enum):
    DARK = 1
    LIGHT = 2


@dataclass
class Options:
    width: int = 3


def doubled(x):
    return 2 * x


SMALL = {"ffn_dim": 64, "num_heads": 2, "num_layers": 1, "freq_dim": 8, "text_dim": 8}


def test_a_third_partys_argument_counts():
    assert MarginAnchor(margin=0.1).fingerprint == MarginAnchor(margin=0.1).fingerprint
    assert MarginAnchor(margin=0.1).fingerprint != MarginAnchor(margin=900).fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (MarginAnchor(), MarginAnchor(margin=0.1)),
        (MarginAnchor(3, margin=0.5), MarginAnchor(margin=0.5, num_frames=3)),
        (ForwardingAnchor(), ForwardingAnchor(margin=0.1)),
        (ForwardingAnchor(num_frames=2, margin=3), ForwardingAnchor(1.0, margin=3, num_frames=2)),
        (FewStepSchedule(), FewStepSchedule(steps=[1000.0, 750.0, 500.0, 250.0])),
        (SlidingCache(window_frames=6), SlidingCache(window_frames=6, history_frames=0)),
        (CounterNoise(), CounterNoise()),
        (Takes({"b": 1, "a": 2}), Takes({"a": 2, "b": 1})),
    ],
    ids=lambda part: repr(part)[:40],
)
def test_equal_arguments_are_equal_however_they_are_given(one, other):
    assert one.description == other.description
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (StaticAnchor(2), MarginAnchor(2)),
        (ForwardingAnchor(margin=1), ForwardingAnchor(margin=2)),
        (OwnDefaultAnchor(1.0), OwnDefaultAnchor(2.0)),
        (OwnDefaultAnchor(), OwnDefaultAnchor(0.1)),
        (MixedAnchor(1.0), MixedAnchor(2.0)),
        (FewStepSchedule(), FewStepSchedule(first_chunk_frames=1)),
        (FewStepSchedule(sampler="euler"), FewStepSchedule()),
        (RelativisticCache(window_frames=6), SlidingCache(window_frames=6)),
        (RelativisticCache(budget_frames=6), RelativisticCache(budget_frames=6, queries="end")),
        (
            ComposedAnchor([MarginAnchor(margin=1), EMAAnchor(1)]),
            ComposedAnchor([MarginAnchor(margin=2), EMAAnchor(1)]),
        ),
        (
            ComposedAnchor([StaticAnchor(1), EMAAnchor(1)]),
            ComposedAnchor([EMAAnchor(1), StaticAnchor(1)]),
        ),
        (WanTransformer(16, **SMALL), WanTransformer(16, **SMALL, eps=1e-5)),
        (
            LoRABackbone(WanTransformer(16, **SMALL), rank=2),
            LoRABackbone(WanTransformer(16, **SMALL), rank=2, alpha=2),
        ),
    ],
    ids=lambda part: repr(part)[:40],
)
def test_other_classes_and_arguments_differ(one, other):
    assert one.fingerprint != other.fingerprint


def test_kernels_and_compilation_do_not_count():
    plain = WanTransformer(16, **SMALL)
    fast = WanTransformer(
        16, **SMALL, compile_blocks="steady", cuda_graphs="steady", checkpoint_activations=True
    )
    assert plain.fingerprint == fast.fingerprint
    wrapped = (
        LoRABackbone(part, rank=2, dropout=share) for part, share in ((plain, 0), (fast, 1e-1))
    )
    first, second = wrapped
    assert first.fingerprint == second.fingerprint


def test_copies_and_pickles_keep_it():
    anchor = ComposedAnchor([MarginAnchor(margin=3), PooledEMAAnchor(1)])
    assert copy.deepcopy(anchor).fingerprint == anchor.fingerprint
    assert pickle.loads(pickle.dumps(anchor)).fingerprint == anchor.fingerprint


def test_a_list_counts_as_it_was_given():
    assert Shuffle([1, 2]).fingerprint != Shuffle([2, 1]).fingerprint
    assert "parts=[1, 2]" in Shuffle([1, 2]).description


ODD = "describe({'b': {1, 'x', 2.5}, 'a': print, 'c': torch.arange(3)})"


def test_it_is_the_same_in_another_process():
    code = f"import torch; from lightning_adastate.components import describe; print({ODD})"
    env = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"}
    asked = [sys.executable, "-c", code]
    found = subprocess.run(asked, env=env, capture_output=True, text=True, check=True).stdout
    here = {"b": {2.5, "x", 1}, "a": print, "c": torch.arange(3)}
    assert found.strip() == describe(here)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64)),
        (np.array([1, 2]), np.array([1, 3])),
        (np.float64(0.5), 0.25),
        (doubled, partial(doubled, 2)),
        (EMAAnchor, StaticAnchor),
        (MarginAnchor(margin=1).read, MarginAnchor(margin=2).read),
        (Shade.DARK, Shade.LIGHT),
        (Path("a"), Path("b")),
        (torch.bfloat16, torch.float32),
        (Options(3), Options(4)),
        (nn.Linear(2, 3), nn.Linear(3, 2)),
        (True, 1),
        ("1", 1),
        (None, "None"),
        (b"a", "a"),
        (1, 2),
        (1.5, 1),
        ([1, [2]], [1, 2]),
        (RecordedNoise({}), RecordedNoise({NoiseKey(0, 0, "content"): torch.ones(1)})),
    ],
    ids=lambda part: type(part).__name__,
)
def test_every_kind_of_value_has_a_text_without_an_address(one, other):
    assert describe(one) == describe(copy.deepcopy(one))
    assert describe(one) != describe(other)
    assert "0x" not in describe(one) + describe(other)


@pytest.mark.parametrize("value", [lambda x: x, object(), np.array([object()], dtype=object)])
def test_what_has_no_stable_text_is_refused_when_a_fingerprint_is_wanted(value):
    inner = Takes([value])
    assert "0x" not in repr(inner)
    with pytest.raises(ValueError, match="`value` of Takes has no stable description: "):
        _ = inner.fingerprint
    with pytest.raises(ValueError, match="`value` of Takes has no stable description: "):
        _ = Takes(inner).fingerprint


def test_a_component_made_without_its_constructor_has_none():
    with pytest.raises(ValueError, match="this CounterNoise was not built by calling its class"):
        _ = CounterNoise.__new__(CounterNoise).fingerprint


def test_wrong_arguments_are_refused_as_python_refuses_them():
    with pytest.raises(
        TypeError, match=r"__init__\(\) got an unexpected keyword argument 'marign'"
    ):
        MarginAnchor(marign=1)
    with pytest.raises(TypeError, match="takes no arguments"):
        CounterNoise(5)
    with pytest.raises(TypeError, match="abstract"):
        Anchor(1)


def test_signatures_are_the_constructors():
    assert str(inspect.signature(MarginAnchor)) == (
        "(num_frames: int = 2, *, margin: float = 0.1) -> None"
    )
    assert str(inspect.signature(CounterNoise)) == "()"
    assert inspect.signature(MixedAnchor) == inspect.signature(Mixin)


def test_jsonargparse_builds_the_same_and_resolves_what_is_forwarded():
    parser = ArgumentParser()
    parser.add_subclass_arguments(Anchor, "anchor")
    name = f"{ForwardingAnchor.__module__}.ForwardingAnchor"
    asked = parser.parse_args([f"--anchor={name}", "--anchor.margin=7", "--anchor.gain=2"])
    built = parser.instantiate_classes(asked).anchor
    assert asked.anchor.init_args.num_frames == 2
    direct = ForwardingAnchor(2.0, margin=7.0)
    assert built.description.split("(")[1] == direct.description.split("(")[1]


@each("anchors")
def test_every_anchor_takes_part(cls):
    assert issubclass(cls, Component)
    assert "extra_repr" not in vars(cls), "the arguments are recorded, nothing needs to be written"
