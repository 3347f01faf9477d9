"""Our window equals the public systems' at settings nobody recorded: symbols against ``layouts``."""

import math
import random

import pytest
import torch
from layouts import (
    AdaStateStream,
    AveragingBuffer,
    BankBuffer,
    CutBuffer,
    PackedBuffer,
    RecachingBuffer,
    RollingBuffer,
    Seen,
    closed_form,
    seen,
)

from lightning_adastate.analysis.symbols import Label, SymbolicBackbone
from lightning_adastate.anchors import (
    AdaptiveAnchor,
    EMAAnchor,
    StaticAnchor,
    TriangularAnchor,
)
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.observer import StepObserver
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import Event

FRAMES = 36
LABELS = 200  # frames committed or encoded anew in one test, at most


class Naming(StepObserver):
    """Names the frames that come next, before a backbone of symbols commits them."""

    def __init__(self, backbone, start):
        super().__init__()
        self.backbone, self.start = backbone, start

    def on_context(self, context, *, reencodes):
        plan, state = context.plan, context.state
        first = state.first_frame - self.start - (plan.num_content if reencodes else 0)
        numbers = range(first, first + plan.num_content)
        self.backbone.names = (
            *(Label("state", i, state.chunk) for i in range(plan.num_state)),
            *(Label("frame", number, state.chunk, reencoded=reencodes) for number in numbers),
        )


class Ours:
    """Our streamer on symbols: what its passes are given is read back, contents by value, places by angle."""

    def __init__(self, anchor, cache, chunk, first=None, start=0, timeline=()):
        schedule = FewStepSchedule(chunk, steps=(1000,), first_chunk_frames=first)
        self.backbone = SymbolicBackbone(LABELS, (1, 1))
        self.model = Streamer(self.backbone, anchor=anchor, cache=cache, schedule=schedule)
        self.naming = Naming(self.backbone, start)
        self.state = self.model.start(
            torch.zeros(1, 1, 1), latent_shape=(1, 1, 1), first_frame=start, timeline=timeline
        )

    @torch.no_grad()
    def chunk(self):
        """Make a chunk and return what its passes saw."""
        self.backbone.forwards.clear()
        self.state = self.model.step(self.state, observer=self.naming).state
        denoise, commit = self.backbone.forwards[-2:]
        assert commit.window is denoise.window
        assert commit.positions == denoise.positions
        keys, window = [], commit.window
        for token in range(window.num_tokens if window is not None else 0):
            held = self.backbone.decode(window, token, 1)
            keys.append((held.first, {named(label): share for label, share in held.shares}))
        keys += [
            (place, {named(label): 1.0})
            for place, label in zip(commit.positions.key, self.backbone.names, strict=True)
        ]
        return seen(keys, commit.positions.query)


def named(label):
    """The name that ``layouts`` gives to a frame."""
    if label.kind == "state":
        return "s", label.chunk, label.number
    return "r" if label.reencoded else "f", label.number


def agree(ours: Seen, theirs: Seen, queries: bool = True) -> None:
    """Same frames at the same relative indices; weights are those of float32."""
    assert [place for place, _ in ours.keys] == [place for place, _ in theirs.keys]
    for (_, a), (_, b) in zip(ours.keys, theirs.keys, strict=True):
        assert a == pytest.approx({label: w for label, w in b.items() if w > 1e-9}, abs=1e-6)
    if queries:
        assert ours.queries == theirs.queries


def chunks_of(chunk):
    """At least ``FRAMES`` frames and 12 chunks."""
    return max(12, math.ceil(FRAMES / chunk))


def compare(ours, theirs, chunk, first=None):
    start = 0
    for index in range(chunks_of(chunk)):
        count = first if index == 0 and first is not None else chunk
        agree(ours.chunk(), theirs.chunk(start, count))
        start += count


def drawn(count, draw):
    """As many different settings, the same in every run."""
    generator, found = random.Random(7), {}
    while len(found) < count:
        found[draw(generator.randint)] = None
    return list(found)


def rolling_settings(least_sink=0):
    """(window, sink, chunk, first chunk): shipped ones, exact fits and one frame more, and drawn ones."""
    shipped = [(21, 0, 3, 3), (21, 3, 3, 1), (21, 10, 3, 3), (20, 1, 1, 1), (12, 3, 3, 3)]
    boundary = [
        (sink + max(chunk, first) + extra, sink, chunk, first)
        for chunk, first in ((1, 1), (1, 2), (3, 3), (3, 1), (2, 3))
        for sink in (0, 1, 4)
        for extra in (0, 1)
    ]

    def draw(between):
        chunk, first, sink = between(1, 6), between(1, 7), between(least_sink, 6)
        return sink + max(chunk, first) + between(0, 12), sink, chunk, first

    return [
        each for each in [*shipped, (32, 8, 8, 8), *boundary] if each[1] >= least_sink
    ] + drawn(20, draw)


@pytest.mark.parametrize(("size", "sink", "chunk", "first"), rolling_settings())
def test_self_forcing_and_causal_forcing_roll_as_we_do(size, sink, chunk, first):
    ours = Ours(StaticAnchor(sink), SlidingCache(budget_frames=size), chunk, first)
    compare(ours, RollingBuffer(size, sink), chunk, first)


@pytest.mark.parametrize(("size", "sink", "chunk", "first"), rolling_settings(1))
def test_packed_indices_are_those_of_infinity_rope(size, sink, chunk, first):
    ours = Ours(StaticAnchor(sink), RelativisticCache(budget_frames=size), chunk, first)
    compare(ours, PackedBuffer(size, sink), chunk, first)


def averaging_settings():
    """(chunk, window in chunks, decay)."""
    boundary = [(1, 2, 0.0), (3, 2, 0.999), (1, 7, 0.5), (5, 3, 0.9)]
    return boundary + drawn(
        12, lambda between: (between(1, 6), between(2, 7), between(0, 99) / 100)
    )


@pytest.mark.parametrize(("chunk", "blocks", "decay"), averaging_settings())
def test_reward_forcing_averages_as_we_do(chunk, blocks, decay):
    size = blocks * chunk
    ours = Ours(EMAAnchor(chunk, decay=decay), RelativisticCache(budget_frames=size), chunk)
    compare(ours, AveragingBuffer(size, chunk, decay), chunk)


def bank_settings():
    """(chunk, window in chunks)."""
    return [(1, 2), (5, 2), (1, 7), *drawn(6, lambda between: (between(1, 6), between(3, 7)))]


@pytest.mark.parametrize(("chunk", "blocks"), bank_settings())
@pytest.mark.parametrize("cache", [SlidingCache, RelativisticCache])
def test_rolling_sink_reads_its_bank_as_we_do(cache, chunk, blocks):
    size = blocks * chunk
    anchor = TriangularAnchor(size - 2 * chunk, bank_frames=size - chunk)
    ours = Ours(anchor, cache(budget_frames=size), chunk)
    compare(ours, BankBuffer(size, chunk), chunk)


def adastate_settings():
    """(window, chunk, first chunk, state frames): enough frames must exist at the first eviction."""
    boundary = [
        (3, 3, 3, 1),
        (3, 3, 3, 3),
        (6, 3, 3, 1),
        (4, 3, 1, 1),
        (1, 1, 1, 1),
        (21, 3, 3, 3),
    ]

    def draw(between):
        chunk = between(1, 5)
        return chunk + between(0, 18), chunk, (1, chunk)[between(0, 1)], between(1, 3)

    return boundary + [
        (window, chunk, first, states)
        for window, chunk, first, states in drawn(26, draw)
        if first + (window - first) // chunk * chunk >= states
    ]


@pytest.mark.parametrize(("window", "chunk", "first", "states"), adastate_settings())
def test_adastate_is_that_of_the_paper(window, chunk, first, states):
    ours = Ours(AdaptiveAnchor(states), RelativisticCache(window_frames=window), chunk, first)
    compare(ours, AdaStateStream(window, states), chunk, first)


# With a larger window than sink + 2 + chunk the public queries stay behind after a flush, at the end of the
# window they will fill, away from their own keys. Ours move with their keys; the keys agree.
@pytest.mark.parametrize("cut", [None, 45])
@pytest.mark.parametrize(("size", "at"), [(6, 2), (6, 7), (9, 3), (9, 4), (12, 4), (12, 9)])
def test_a_flush_keeps_what_infinity_rope_keeps(size, at, cut):
    flush = [Event(at, keep_frames=2, live_start=cut)]
    ours = Ours(StaticAnchor(1), RelativisticCache(budget_frames=size), 3, timeline=flush)
    theirs = CutBuffer(size, 1)
    for index in range(chunks_of(3)):
        if index == at:
            theirs.flush()
        theirs.cut = cut if index == at else None
        agree(ours.chunk(), theirs.chunk(3 * index, 3), queries=size == 6)


def recache_settings():
    """(window, sink, chunk, chunk of the switch, whether the sink stays): LongLive's own, and drawn ones."""
    sizes = [(9, 3, 3), (10, 2, 3), (9, 1, 2), (5, 1, 1)]
    return [(12, 3, 3, at, keeps) for at in (1, 3, 4, 5, 9) for keeps in (True, False)] + drawn(
        12, lambda between: (*sizes[between(0, 3)], between(1, 9), between(0, 1) == 1)
    )


@pytest.mark.parametrize(("size", "sink", "chunk", "at", "keep_sink"), recache_settings())
def test_a_recache_leaves_what_longlive_leaves(size, sink, chunk, at, keep_sink):
    count = size - sink if keep_sink else size
    switch = [Event(at, recache_frames=count, reset_anchor=not keep_sink)]
    ours = Ours(StaticAnchor(sink), SlidingCache(budget_frames=size), chunk, timeline=switch)
    theirs = RecachingBuffer(size, sink)
    for index in range(chunks_of(chunk)):
        if index == at:
            theirs.recache(index * chunk, keep_sink)
        agree(ours.chunk(), theirs.chunk(index * chunk, chunk))


def test_a_flush_before_any_eviction_begins_the_hidden_state_with_the_first_frame():
    flush = [Event(2, keep_frames=2)]
    ours = Ours(AdaptiveAnchor(1), RelativisticCache(window_frames=9), 3, timeline=flush)
    _, _, view = (ours.chunk() for _ in range(3))
    labels = [next(iter(what)) for _, what in view.keys]
    assert labels == [("f", 0), ("s", 2, 0), ("f", 4), ("f", 5), ("f", 6), ("f", 7), ("f", 8)]


def test_a_short_recache_before_any_eviction_loses_no_frame_the_sink_is_to_keep():
    switch = [Event(2, recache_frames=2)]
    ours = Ours(StaticAnchor(1), SlidingCache(budget_frames=12), 3, timeline=switch)
    _, _, view = (ours.chunk() for _ in range(3))
    labels = [next(iter(what)) for _, what in view.keys]
    assert labels == [*(("r", i) for i in range(6)), ("f", 6), ("f", 7), ("f", 8)]


def test_the_buffer_model_keeps_its_closed_form():
    for size, sink, chunk, first in rolling_settings():
        buffer, start = RollingBuffer(size, sink), 0
        for index in range(14):
            count = first if index == 0 else chunk
            view = buffer.chunk(start, count)
            start += count
            numbers = [next(iter(what))[1] for _, what in view.keys]
            assert numbers == closed_form(start, size, sink)


def test_a_late_start_changes_no_relative_index():
    for anchor in (TriangularAnchor(3, bank_frames=6), AdaptiveAnchor(3), EMAAnchor(3)):
        for cache in (SlidingCache, RelativisticCache):
            near, far = (
                Ours(anchor, cache(budget_frames=9), 3, start=start) for start in (0, 10**9)
            )
            for _ in range(chunks_of(3)):
                agree(near.chunk(), far.chunk())


def test_another_setting_is_noticed():
    pairs = [
        (StaticAnchor(1), RollingBuffer(9, 2)),
        (StaticAnchor(2), RollingBuffer(8, 2)),
        (EMAAnchor(3, decay=0.99), AveragingBuffer(9, 3, 0.9)),
        (TriangularAnchor(3, bank_frames=5), BankBuffer(9, 3)),
        (AdaptiveAnchor(1), AdaStateStream(8, 1)),
    ]
    for anchor, theirs in pairs:
        ours = Ours(anchor, RelativisticCache(budget_frames=9), 3)
        with pytest.raises(AssertionError):
            compare(ours, theirs, 3)
