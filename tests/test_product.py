"""Any anchor with any cache, schedule, noise and chunk size: it streams, or is refused with the reason."""

import itertools

import pytest
import torch
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
from lightning_adastate.noise import RepeatedNoise
from lightning_adastate.schedules import DiagonalSchedule, FewStepSchedule, RollingSchedule
from lightning_adastate.streaming.state_file import load_stream_state, save_stream_state
from lightning_adastate.streaming.streamer import Streamer

LATENT = (16, 2, 4)
STEPS = (1000, 500)

ANCHORS = {
    "none": lambda: StaticAnchor(0),
    "static": lambda: StaticAnchor(2),
    "EMA": lambda: EMAAnchor(2, decay=0.9),
    "replacement": lambda: ReplacementAnchor(2),
    "triangular": lambda: TriangularAnchor(2, bank_frames=4),
    "adaptive": lambda: AdaptiveAnchor(2),
    "selected": lambda: SelectedAnchor(1, num_selected=1),
    "compressed": lambda: CompressedAnchor(1, num_packed=2, bank_frames=4, stride=(1, 2)),
    "MemRoPE": lambda: ComposedAnchor([StaticAnchor(1), PooledEMAAnchor(), PooledEMAAnchor()]),
    "sink and state": lambda: ComposedAnchor([StaticAnchor(1), AdaptiveAnchor(1)]),
}
CACHES = {
    "relativistic window": lambda live: RelativisticCache(window_frames=live + 3),
    "relativistic budget": lambda live: RelativisticCache(
        budget_frames=live + 5, history_frames=2
    ),
    "sliding window": lambda live: SlidingCache(window_frames=live + 2),
    "sliding saw-tooth": lambda live: SlidingCache(budget_frames=live + 9, compress_to=live + 4),
}
SCHEDULES = {
    "few": lambda chunk: FewStepSchedule(chunk, steps=STEPS),
    "few, first chunk": lambda chunk: FewStepSchedule(chunk, steps=STEPS, first_chunk_frames=1),
    "euler": lambda chunk: FewStepSchedule(chunk, steps=STEPS, sampler="euler"),
    "last pass": lambda chunk: DiagonalSchedule(chunk, steps=[(1000, 700, 400), STEPS]),
    "renoised": lambda chunk: DiagonalSchedule(chunk, steps=[STEPS], cached="renoised"),
    "clean first": lambda chunk: DiagonalSchedule(chunk, steps=[STEPS], clean_chunks=1),
    "rolling": lambda chunk: RollingSchedule(chunk, steps=STEPS),
    "rolling, own reads": lambda chunk: RollingSchedule(chunk, steps=STEPS, commit_window=3),
}
ALL = list(itertools.product(ANCHORS, CACHES, SCHEDULES))
CHUNKS = range(1, 9)


def build(anchor, cache, schedule, chunk=3, noise=None):
    made = SCHEDULES[schedule](chunk)
    live = chunk * (1 + made.num_ahead)
    return Streamer(
        golden_backbone(),
        anchor=ANCHORS[anchor](),
        cache=CACHES[cache](live),
        schedule=made,
        noise=noise,
    )


def makes_sense(anchor, schedule):
    """A hidden state needs all passes of its chunk; a ladder spreads them over several."""
    return not ("rolling" in schedule and anchor in ("adaptive", "sink and state"))


def size(state):
    """Frames that wait for the next chunk."""
    held = [*state.blocks, *state.history, *state.anchor.values()]
    return sum(kv.num_frames for kv in held)


def check_stream(streamer, chunks):
    """Finite, all different, of constant size in the end (a saw-tooth has a period of a few chunks)."""
    state = streamer.start(text(), latent_shape=LATENT)
    sizes, made = [], []
    for chunk in streamer.stream(state, chunks):
        assert torch.isfinite(chunk.latents_BFCHW).all()
        made.append(chunk)
        sizes.append(size(chunk.state))
    assert max(sizes[-6:]) <= max(sizes[:-6]), sizes
    assert not torch.equal(made[-1].latents_BFCHW, made[-2].latents_BFCHW)
    assert [chunk.index for chunk in made] == list(range(chunks))
    return made


@pytest.mark.parametrize(("anchor", "cache", "schedule"), ALL)
def test_every_combination_streams_or_is_refused_with_the_reason(anchor, cache, schedule):
    if not makes_sense(anchor, schedule):
        with pytest.raises(ValueError, match="use another anchor or schedule"):
            build(anchor, cache, schedule)
        return
    chunks = 16 if "saw-tooth" in cache else 12
    check_stream(build(anchor, cache, schedule, chunk=2), chunks)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("anchor", ANCHORS)
def test_every_anchor_streams_in_chunks_of_any_size(anchor, chunk):
    caches, schedules = list(CACHES), [name for name in SCHEDULES if makes_sense(anchor, name)]
    turn = chunk + list(ANCHORS).index(anchor)
    cache, schedule = caches[turn % len(caches)], schedules[turn % len(schedules)]
    check_stream(build(anchor, cache, schedule, chunk), 18 if chunk < 3 else 12)


PAIRS = [
    (anchor, list(CACHES)[(i + j) % len(CACHES)], schedule)
    for i, anchor in enumerate(ANCHORS)
    for j, schedule in enumerate(SCHEDULES)
    if makes_sense(anchor, schedule)
]


@pytest.mark.parametrize(("anchor", "cache", "schedule"), PAIRS[::2])
def test_a_stream_equals_its_rollout_and_goes_on_from_a_file(anchor, cache, schedule, tmp_path):
    streamer = build(anchor, cache, schedule, chunk=2, noise=RepeatedNoise())
    start = streamer.start(text(2), latent_shape=LATENT)
    chunks = list(streamer.stream(start, 8))
    streamed = torch.cat([chunk.latents_BFCHW for chunk in chunks], dim=1)
    with torch.no_grad():
        rolled, _ = streamer.rollout(start, 8)
    torch.testing.assert_close(streamed, rolled, rtol=0, atol=2e-5)
    save_stream_state(
        tmp_path / "s.safetensors", chunks[4].state, fingerprint=streamer.fingerprint
    )
    loaded = load_stream_state(tmp_path / "s.safetensors", fingerprint=streamer.fingerprint)
    again = list(streamer.stream(streamer.resume(loaded), 3))
    for old, new in zip(chunks[5:], again, strict=True):
        assert torch.equal(old.latents_BFCHW, new.latents_BFCHW)


@pytest.mark.parametrize(("anchor", "cache", "schedule"), PAIRS[1::2])
def test_every_combination_trains(anchor, cache, schedule):
    """Leaving at the first pass, the last chunk's gradient reaches the first layer; no cache keeps a graph."""
    streamer = build(anchor, cache, schedule, chunk=2)
    with torch.no_grad():
        state = streamer.start(text(), latent_shape=LATENT)
        *_, chunk = streamer.stream(state, 6)
    streamer.zero_grad()
    last = streamer.step(streamer.resume(chunk.state), exit_step=0)
    last.latents_BFCHW.square().sum().backward()
    gradient = streamer.backbone.blocks[0].self_attn.v.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
    after = last.state
    kept = (*after.blocks, *after.history, *after.anchor.values())
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
