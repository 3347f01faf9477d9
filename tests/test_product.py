"""Any anchor with any cache, schedule, noise and chunk size: its stream equals a naive recomputation, and trains."""

import math
from itertools import combinations, product

import pytest
import reference_anchors as anchors
import reference_streams as naive
import torch
from reference import NaiveWan, warped_levels
from tiny import golden_backbone, text

from lightning_adastate.anchors import (
    AdaptiveAnchor,
    ComposedAnchor,
    CompressedAnchor,
    EMAAnchor,
    PooledEMAAnchor,
    ReplacementAnchor,
    SelectedAnchor,
    StaticAnchor,
    TriangularAnchor,
)
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.noise import CounterNoise, NoiseKey, RepeatedNoise
from lightning_adastate.schedules import DiagonalSchedule, FewStepSchedule, RollingSchedule
from lightning_adastate.streaming.state_file import load_stream_state, save_stream_state
from lightning_adastate.streaming.streamer import Streamer

LATENT = (16, 4, 4)
GRID = (2, 2)
STEPS = (1000, 500)
SEED = 3
FRAMES = 15  # at least, and 6 chunks: every window below has then evicted three times or more

# Beside every class what it is, said again for the naive stream.
ANCHORS = {
    "none": (lambda: StaticAnchor(0), anchors.Sink(0)),
    "static": (lambda: StaticAnchor(2), anchors.Sink(2)),
    "EMA": (lambda: EMAAnchor(2, decay=0.9), anchors.Average(2, 0.9)),
    "replacement": (lambda: ReplacementAnchor(2), anchors.Newest(2)),
    "triangular": (lambda: TriangularAnchor(2, bank_frames=4), anchors.Bank(2, 4)),
    "adaptive": (lambda: AdaptiveAnchor(2), anchors.State(2)),
    "selected": (lambda: SelectedAnchor(1, num_selected=1), anchors.Selection(1, 1, GRID)),
    "compressed": (
        lambda: CompressedAnchor(1, num_packed=2, bank_frames=4, stride=(1, 2)),
        anchors.Packed(1, 2, 4, (1, 2), GRID),
    ),
    "MemRoPE": (
        lambda: ComposedAnchor([StaticAnchor(1), PooledEMAAnchor(), PooledEMAAnchor(decay=0.9)]),
        anchors.Row(anchors.Sink(1), anchors.Pool(), anchors.Pool(0.9)),
    ),
    "sink and state": (
        lambda: ComposedAnchor([StaticAnchor(1), AdaptiveAnchor(1)]),
        anchors.Row(anchors.Sink(1), anchors.State(1)),
    ),
}
CACHES = {
    "relativistic window": (
        lambda live: RelativisticCache(window_frames=live + 3),
        lambda live: naive.Window(live + 3, holds_anchor=False, packed=True),
    ),
    "relativistic budget": (
        lambda live: RelativisticCache(budget_frames=live + 5, history_frames=2),
        lambda live: naive.Window(live + 5, holds_anchor=True, packed=True, history=2),
    ),
    "sliding window": (
        lambda live: SlidingCache(window_frames=live + 2),
        lambda live: naive.Window(live + 2, holds_anchor=False, packed=False),
    ),
    "sliding saw-tooth": (
        lambda live: SlidingCache(budget_frames=live + 7, compress_to=live + 4),
        lambda live: naive.Window(live + 7, holds_anchor=True, packed=False, compress_to=live + 4),
    ),
}
LEVELS = warped_levels(STEPS, 5.0)
LONGER = warped_levels((1000, 700, 400), 5.0)
SCHEDULES = {
    "few": (
        lambda chunk: FewStepSchedule(chunk, steps=STEPS),
        naive.Passes(lambda chunk: LEVELS),
    ),
    "few, first chunk": (
        lambda chunk: FewStepSchedule(chunk, steps=STEPS, first_chunk_frames=1),
        naive.Passes(lambda chunk: LEVELS),
    ),
    "euler": (
        lambda chunk: FewStepSchedule(chunk, steps=STEPS, sampler="euler"),
        naive.Passes(lambda chunk: LEVELS, euler=True),
    ),
    "last pass": (
        lambda chunk: DiagonalSchedule(chunk, steps=[(1000, 700, 400), STEPS]),
        naive.Passes(lambda chunk: LEVELS if chunk else LONGER, lambda chunk: "last"),
    ),
    "renoised": (
        lambda chunk: DiagonalSchedule(chunk, steps=[STEPS], cached="renoised"),
        naive.Passes(lambda chunk: LEVELS, lambda chunk: "renoised"),
    ),
    "clean first": (
        lambda chunk: DiagonalSchedule(chunk, steps=[STEPS], clean_chunks=1),
        naive.Passes(lambda chunk: LEVELS, lambda chunk: "last" if chunk else "clean"),
    ),
    "rolling": (
        lambda chunk: RollingSchedule(chunk, steps=STEPS),
        naive.Passes(lambda chunk: LEVELS, depth=2),
    ),
    "rolling, own reads": (
        lambda chunk: RollingSchedule(chunk, steps=(1000, 700, 400), commit_window=4),
        naive.Passes(lambda chunk: LONGER, depth=3, own_window=4),
    ),
}
CHUNKS = (1, 2, 3, 5)
NOISES = {"counter": CounterNoise(), "repeated": RepeatedNoise()}
AXES = (ANCHORS, CACHES, SCHEDULES, CHUNKS, NOISES)


def makes_sense(anchor, schedule):
    """A hidden state needs all passes of its chunk; a ladder spreads them over several."""
    return not ("rolling" in schedule and anchor in ("adaptive", "sink and state"))


def pairs_of(case):
    return set(combinations(enumerate(case), 2))


def pairwise():
    """One case for every anchor with every schedule; the others are chosen to bring the most new pairs."""
    seen, cases = set(), []
    for i, anchor in enumerate(ANCHORS):
        for j, schedule in enumerate(SCHEDULES):
            if not makes_sense(anchor, schedule):
                continue
            others = [*product(CACHES, CHUNKS, NOISES)]
            others = others[(7 * i + 11 * j) % len(others) :] + others
            options = [(anchor, cache, schedule, *rest) for cache, *rest in others]
            best = max(options, key=lambda case: len(pairs_of(case) - seen))
            seen |= pairs_of(best)
            cases.append(best)
    return cases


CASES = pairwise()


def build(anchor, cache, schedule, chunk=3, noise="counter"):
    made = SCHEDULES[schedule][0](chunk)
    return Streamer(
        golden_backbone(),
        anchor=ANCHORS[anchor][0](),
        cache=CACHES[cache][0](chunk * (1 + made.num_ahead)),
        schedule=made,
        noise=NOISES[noise],
    )


def begin(streamer):
    return streamer.start(text(), latent_shape=LATENT, seed=SEED)


def num_chunks(chunk):
    return max(6, math.ceil(FRAMES / chunk))


def recomputed(anchor, cache, schedule, chunk, noise):
    """The same stream from the definitions, of noise whose chunk is counted here."""
    passes = SCHEDULES[schedule][1]

    def draw(number, step, slot, count):
        number = 0 if noise == "repeated" and step == 0 else number
        key, shape = NoiseKey(number, step, slot), (count, *LATENT)
        return list(
            CounterNoise().draw(key, seed=SEED, stream_ids=(0,), shape_FCHW=shape)[0].double()
        )

    return naive.naive_stream(
        NaiveWan(golden_backbone().state_dict(), heads=4, freq_dim=64),
        text()[0],
        draw,
        chunks=num_chunks(chunk),
        sizes=lambda index: 1 if "first chunk" in schedule and index == 0 else chunk,
        anchor=ANCHORS[anchor][1],
        window=CACHES[cache][1](chunk * passes.depth),
        passes=passes,
    )


def size(state):
    """Frames that wait for the next chunk."""
    held = [*state.blocks, *state.history, *state.anchor.values()]
    return sum(kv.num_frames for kv in held)


def test_every_pair_of_choices_is_among_the_cases():
    possible = [case for case in product(*AXES) if makes_sense(case[0], case[2])]
    everything = {pair for case in possible for pair in pairs_of(case)}
    assert everything == {pair for case in CASES for pair in pairs_of(case)}
    assert len(CASES) == 76


REFUSED = [pair for pair in product(ANCHORS, SCHEDULES) if not makes_sense(*pair)]


@pytest.mark.parametrize(("anchor", "schedule"), REFUSED)
def test_a_hidden_state_under_a_ladder_is_refused_with_the_reason(anchor, schedule):
    with pytest.raises(ValueError, match="use another anchor or schedule"):
        build(anchor, "sliding window", schedule)


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: "-".join(map(str, case)))


@each(CASES)
def test_a_stream_equals_its_naive_recomputation_in_float64(case):
    streamer = build(*case)
    expected = recomputed(*case)
    made = list(streamer.stream(begin(streamer), len(expected)))
    for chunk, (content, hidden, cached) in zip(made, expected, strict=True):
        assert chunk.state.cached_frame_indices == tuple(cached)
        got = chunk.latents_BFCHW[0].double()
        assert (got - content).abs().max() < 5e-5, f"chunk {chunk.index}"
        assert (chunk.state_latents_BFCHW is None) == (hidden is None)
        if hidden is not None:
            got = chunk.state_latents_BFCHW[0].double()
            assert (got - hidden).abs().max() < 5e-5, f"state of chunk {chunk.index}"


@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_long_stream_keeps_its_size(anchor):
    streamer = build(anchor, "relativistic window", "few", chunk=1)
    sizes = [size(chunk.state) for chunk in streamer.stream(begin(streamer), 18)]
    assert max(sizes[-8:]) <= max(sizes[:-8]), sizes


@each(CASES[::2])
def test_a_stream_equals_its_rollout_and_goes_on_from_a_file(case, tmp_path):
    streamer = build(*case)
    *_, middle, first, second = streamer.stream(begin(streamer), 6)
    with torch.no_grad():
        rolled, _ = streamer.rollout(middle.state, 2)
    streamed = torch.cat([first.latents_BFCHW, second.latents_BFCHW], dim=1)
    torch.testing.assert_close(streamed, rolled, rtol=0, atol=2e-5)
    path = tmp_path / "s.safetensors"
    save_stream_state(path, middle.state, fingerprint=streamer.fingerprint)
    loaded = load_stream_state(path, fingerprint=streamer.fingerprint)
    again = streamer.stream(streamer.resume(loaded), 2)
    for old, new in zip((first, second), again, strict=True):
        assert torch.equal(old.latents_BFCHW, new.latents_BFCHW)


@each(CASES[1::2])
def test_every_choice_trains(case):
    """Leaving at the first pass, the last chunk's gradient reaches the first layer; no cache keeps a graph."""
    streamer = build(*case)
    *_, chunk = streamer.stream(begin(streamer), 5)
    last = streamer.step(chunk.state, exit_step=0)
    last.latents_BFCHW.square().sum().backward()
    gradient = streamer.backbone.blocks[0].self_attn.v.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
    kept = (*last.state.blocks, *last.state.history, *last.state.anchor.values())
    assert not any(kv.key_LBFTND.requires_grad for kv in kept)


def test_windows_that_cannot_hold_a_chunk_are_refused_with_the_smallest_that_can():
    parts = {"anchor": StaticAnchor(3), "schedule": FewStepSchedule(3)}
    with pytest.raises(ValueError, match="`budget_frames` 5 cannot hold .* use 6 or more"):
        Streamer(golden_backbone(), cache=RelativisticCache(budget_frames=5), **parts)
    with pytest.raises(ValueError, match="`window_frames` 2 is smaller .* use 3 or more"):
        Streamer(golden_backbone(), cache=SlidingCache(window_frames=2), **parts)
    cache = RelativisticCache(budget_frames=9, compress_to=5)
    with pytest.raises(ValueError, match="`compress_to` 5 cannot hold .* use 6 or more"):
        Streamer(golden_backbone(), cache=cache, **parts)
