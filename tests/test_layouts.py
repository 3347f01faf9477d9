"""Our window equals the public systems' at settings nobody recorded: symbols against ``layouts``."""

import math
from dataclasses import replace
from functools import lru_cache

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
from reference import NaiveWan, adastate
from tiny import LATENT, golden_backbone, streamer, text

from lightning_adastate.anchors import (
    AdaptiveAnchor,
    EMAAnchor,
    StaticAnchor,
    TriangularAnchor,
)
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.noise import NoiseKey
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.commit import close_chunk
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import KV, BackboneOutput, Event, StreamState

FRAMES = 45
WIDTH = 300  # labels at most, of all frames of a test
backbone = lru_cache(golden_backbone)


class Ours:
    """Our streamer on symbols: every frame's key is one-hot, so contents and weights can be read back."""

    def __init__(self, anchor, cache, chunk, first=None, start=0):
        schedule = FewStepSchedule(chunk, first_chunk_frames=first)
        self.model = Streamer(backbone(), anchor=anchor, cache=cache, schedule=schedule)
        self.model._recache = self._recache  # encodes latents, of which there are none here
        self.labels = []
        self.start = start
        self.state = StreamState(
            0, start, (1, 1, 1), (), anchor.empty(), torch.zeros(1, 1, 1, 1), 0, 0, (0,)
        )

    def chunk(self, event=None):
        """Lay a chunk out, note what it sees, and commit it."""
        events = () if event is None else (replace(event, chunk=self.state.chunk),)
        state, event = self.model.open_chunk(replace(self.state, timeline=events))
        plan = self.model.plan(state, event)
        first = state.first_frame - self.start
        live = [("s", state.chunk, i) for i in range(plan.num_state)]
        live += [("f", first + i) for i in range(plan.num_content)]
        kv = self._encode(live)
        self.state = close_chunk(
            self.model.anchor,
            self.model.cache,
            state,
            plan,
            torch.zeros(1, len(live), 1, 1, 1),
            BackboneOutput(torch.zeros(()), kv),
            "detach",
            (1, 1),
        )
        places = [*plan.positions.anchor, *plan.positions.cached, *plan.positions.live.key]
        whats = [
            what for part in (*plan.anchor, *plan.retained, kv) for what in self._decode(part)
        ]
        return seen(zip(places, whats, strict=True), plan.positions.live.query)

    def _recache(self, state, latents_BFCHW, observer):
        count = latents_BFCHW.shape[1]
        frame_indices = tuple(range(state.first_frame - count, state.first_frame))
        kv = self._encode([("r", frame_index - self.start) for frame_index in frame_indices])
        return replace(state, blocks=(replace(kv, frame_indices=frame_indices),))

    def _encode(self, labels):
        key = torch.zeros(1, 1, len(labels), 1, 1, WIDTH, dtype=torch.float64)
        for row, label in enumerate(labels):
            key[0, 0, row, 0, 0, len(self.labels)] = 1.0
            self.labels.append(label)
        return KV(key, -key, tuple(range(len(labels))))

    def _decode(self, kv):
        assert torch.equal(kv.key_LBFTND, -kv.value_LBFTND)
        for row in kv.key_LBFTND[0, 0, :, 0, 0]:
            yield {self.labels[i]: float(row[i]) for i in row.nonzero().flatten().tolist()}


def agree(ours: Seen, theirs: Seen, queries: bool = True) -> None:
    """Same frames at the same relative indices, weights within 1e-12."""
    assert [place for place, _ in ours.keys] == [place for place, _ in theirs.keys]
    for (_, a), (_, b) in zip(ours.keys, theirs.keys, strict=True):
        assert a.keys() == b.keys()
        assert a == pytest.approx(b, abs=1e-12, rel=0)
    if queries:
        assert ours.queries == theirs.queries


def chunks_of(chunk):
    """At least ``FRAMES`` frames and 14 chunks."""
    return max(14, math.ceil(FRAMES / chunk))


def compare(ours, theirs, chunk, first=None):
    start = 0
    for index in range(chunks_of(chunk)):
        count = first if index == 0 and first is not None else chunk
        agree(ours.chunk(), theirs.chunk(start, count))
        start += count


def rolling_settings(least_sink=0):
    """(window, sink, chunk, first chunk): all for which sink + chunk fit the window."""
    return [
        (size, sink, chunk, first)
        for chunk in range(1, 6)
        for first in sorted({1, chunk, chunk + 1})
        for sink in (0, 1, 3, 4)
        for size in (sink + max(chunk, first) + extra for extra in (0, 1, 4))
        if sink >= least_sink
    ] + [(21, 0, 3, 3), (21, 3, 3, 1), (21, 10, 3, 3), (20, 1, 1, 1), (12, 3, 3, 3), (32, 8, 8, 8)]


@pytest.mark.parametrize(("size", "sink", "chunk", "first"), rolling_settings())
def test_self_forcing_and_causal_forcing_roll_as_we_do(size, sink, chunk, first):
    ours = Ours(StaticAnchor(sink), SlidingCache(budget_frames=size), chunk, first)
    compare(ours, RollingBuffer(size, sink), chunk, first)


@pytest.mark.parametrize(("size", "sink", "chunk", "first"), rolling_settings(1))
def test_packed_indices_are_those_of_infinity_rope(size, sink, chunk, first):
    ours = Ours(StaticAnchor(sink), RelativisticCache(budget_frames=size), chunk, first)
    compare(ours, PackedBuffer(size, sink), chunk, first)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("blocks", [2, 3, 4, 7])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5])
def test_reward_forcing_averages_as_we_do(chunk, blocks, decay):
    size = blocks * chunk
    ours = Ours(EMAAnchor(chunk, decay=decay), RelativisticCache(budget_frames=size), chunk)
    theirs = AveragingBuffer(size, chunk, decay)
    if decay == 0.0:  # a zero weight is absent from ours
        for index in range(chunks_of(chunk)):
            view = theirs.chunk(index * chunk, chunk)
            keys = [(place, {k: w for k, w in what.items() if w}) for place, what in view.keys]
            agree(ours.chunk(), Seen(keys, view.queries))
        return
    compare(ours, theirs, chunk)


@pytest.mark.parametrize("blocks", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("cache", [SlidingCache, RelativisticCache])
def test_rolling_sink_reads_its_bank_as_we_do(cache, chunk, blocks):
    size = blocks * chunk
    anchor = TriangularAnchor(size - 2 * chunk, bank_frames=size - chunk)
    ours = Ours(anchor, cache(budget_frames=size), chunk)
    compare(ours, BankBuffer(size, chunk), chunk)


def adastate_settings():
    """(window, chunk, first chunk, state frames): all where enough frames exist at the first eviction."""
    return [
        (chunk + cached, chunk, first, states)
        for chunk in range(1, 6)
        for cached in (0, 1, 2, 3, 4, 5, 6, 9, 18)
        for first in sorted({1, chunk})
        for states in (1, 2, 3)
        if first + (chunk + cached - first) // chunk * chunk >= states
    ]


@pytest.mark.parametrize(("window", "chunk", "first", "states"), adastate_settings())
def test_adastate_is_that_of_the_paper(window, chunk, first, states):
    ours = Ours(AdaptiveAnchor(states), RelativisticCache(window_frames=window), chunk, first)
    compare(ours, AdaStateStream(window, states), chunk, first)


# With a larger window than sink + 2 + chunk the public queries stay behind after a flush, at the end of the
# window they will fill, away from their own keys. Ours move with their keys; the keys agree.
@pytest.mark.parametrize("cut", [None, 45])
@pytest.mark.parametrize(
    ("size", "at"), [(6, 2), (6, 3), (6, 7), (9, 3), (9, 4), (9, 7), (12, 4), (12, 5), (12, 9)]
)
def test_a_flush_keeps_what_infinity_rope_keeps(size, at, cut):
    ours = Ours(StaticAnchor(1), RelativisticCache(budget_frames=size), 3)
    theirs = CutBuffer(size, 1)
    for index in range(chunks_of(3)):
        event = None
        if index == at:
            theirs.flush()
            event = Event(index, keep_frames=2, live_start=cut)
        theirs.cut = cut if index == at else None
        agree(ours.chunk(event), theirs.chunk(3 * index, 3), queries=size == 6)


@pytest.mark.parametrize("keep_sink", [True, False])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(
    ("size", "sink", "chunk"), [(12, 3, 3), (9, 3, 3), (10, 2, 3), (9, 1, 2), (5, 1, 1)]
)
def test_a_recache_leaves_what_longlive_leaves(size, sink, chunk, at, keep_sink):
    ours = Ours(StaticAnchor(sink), SlidingCache(budget_frames=size), chunk)
    theirs = RecachingBuffer(size, sink)
    count = size - sink if keep_sink else size
    for index in range(chunks_of(chunk)):
        event = None
        if index == at:
            theirs.recache(index * chunk, keep_sink)
            event = Event(index, recache_frames=count, reset_anchor=not keep_sink)
        agree(ours.chunk(event), theirs.chunk(index * chunk, chunk))


def test_a_flush_before_any_eviction_begins_the_hidden_state_with_the_first_frame():
    ours = Ours(AdaptiveAnchor(1), RelativisticCache(window_frames=9), 3)
    ours.chunk()
    ours.chunk()
    view = ours.chunk(Event(2, keep_frames=2))
    labels = [next(iter(what)) for _, what in view.keys]
    assert labels == [("f", 0), ("s", 2, 0), ("f", 4), ("f", 5), ("f", 6), ("f", 7), ("f", 8)]


def test_a_short_recache_before_any_eviction_loses_no_frame_the_sink_is_to_keep():
    ours = Ours(StaticAnchor(1), SlidingCache(budget_frames=12), 3)
    ours.chunk()
    ours.chunk()
    view = ours.chunk(Event(2, recache_frames=2))
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


@pytest.mark.parametrize(
    ("states", "window", "chunk", "shift"), [(3, 7, 2, 5.0), (1, 4, 3, 8.0), (2, 5, 1, 1.0)]
)
def test_streamed_adastate_equals_a_naive_recomputation_in_float64(states, window, chunk, shift):
    steps = (1000, 750, 500, 250)
    model = streamer(
        AdaptiveAnchor(states),
        RelativisticCache(window_frames=window),
        backbone=backbone(),
        chunk_frames=chunk,
        steps=steps,
        shift=shift,
    )

    def draw(index, step, slot, count):
        key, shape = NoiseKey(index, step, slot), (count, *LATENT)
        return list(model.noise.draw(key, seed=3, stream_ids=(0,), shape_FCHW=shape)[0].double())

    words = text()
    expected = adastate(
        NaiveWan(backbone().state_dict(), heads=4, freq_dim=64),
        words[0],
        draw,
        chunks=7,
        chunk_frames=chunk,
        window=window,
        states=states,
        steps=steps,
        shift=shift,
    )
    assert sum(hidden is not None for _, hidden in expected) >= 2
    ours = model.stream(model.start(words, latent_shape=LATENT, seed=3), 7)
    for chunk_out, (content, hidden) in zip(ours, expected, strict=True):
        got = chunk_out.latents_BFCHW[0].double()
        torch.testing.assert_close(got, content, atol=1e-5, rtol=0)
        assert (chunk_out.state_latents_BFCHW is None) == (hidden is None)
        if hidden is not None:
            got = chunk_out.state_latents_BFCHW[0].double()
            torch.testing.assert_close(got, hidden, atol=1e-5, rtol=0)
