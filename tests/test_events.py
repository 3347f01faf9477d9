"""Named events do what their names say: contents by hand, on a real stream."""

from dataclasses import replace

import pytest
import torch
from tiny import LATENT, streamer, text
from training_toy import backbone, parts

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.events import kv_flush, prompt_switch, restart, rope_cut
from lightning_adastate.training.base import StreamModule
from lightning_adastate.types import Event


def run(event, chunks=6, cache=None):
    """Stream with an event; return the states before and after its chunk's passes began."""
    model = streamer(
        StaticAnchor(2), RelativisticCache(budget_frames=11) if cache is None else cache
    )
    state = model.start(text(), latent_shape=LATENT, timeline=(event,), later_texts=[text(seed=6)])
    for chunk in model.stream(state, chunks):
        state = chunk.state
    return state, model.open_chunk(state)[0]


def same(kv, other):
    return torch.equal(kv.key_LBFTND, other.key_LBFTND)


def test_keep_changes_the_text_alone():
    before, after = run(prompt_switch(6, 1, "keep"))
    assert after.blocks == before.blocks
    assert same(after.anchor["sink"], before.anchor["sink"])
    assert not torch.equal(after.text_kv.key_LBSND[0], before.text_kv.key_LBSND[0])


def test_recache_encodes_the_newest_latents_anew_and_keeps_the_sink():
    before, after = run(prompt_switch(6, 1, "recache", frames=5))
    assert after.cached_frame_indices == (13, 14, 15, 16, 17)
    assert same(after.anchor["sink"], before.anchor["sink"])
    assert not same(after.blocks[0].frames(4), before.blocks[-1].frames(2))


def test_rebase_begins_the_sink_anew_with_what_is_encoded_anew():
    _, after = run(prompt_switch(6, 1, "rebase", frames=9))
    assert after.anchor == {}
    assert after.cached_frame_indices == tuple(range(9, 18))


def test_drop_forgets_window_and_anchor():
    _, after = run(prompt_switch(6, 1, "drop"))
    assert (after.anchor, after.blocks, after.prompt) == ({}, (), 1)


def test_a_flush_leaves_the_newest_frames_and_the_sink():
    before, after = run(kv_flush(6, prompt=1))
    assert after.cached_frame_indices == (16, 17)
    assert same(after.anchor["sink"], before.anchor["sink"])
    assert after.prompt == 1


def test_a_cut_moves_the_live_chunk_once():
    model = streamer(StaticAnchor(1), RelativisticCache(budget_frames=6))
    state = model.start(text(), latent_shape=LATENT, timeline=(rope_cut(3),))
    for chunk in model.stream(state, 3):
        state = chunk.state
    assert model.plan(*model.open_chunk(state)).positions.live.key == (45, 46, 47)
    assert model.plan(chunk.state).positions.live.key == (3, 4, 5)


def test_restarts_come_every_so_many_chunks_and_forget_all_but_the_overlap():
    event = restart(2)
    assert [chunk for chunk in range(10) if event.opens(chunk)] == [3, 5, 7, 9]
    model = streamer(StaticAnchor(0), SlidingCache(window_frames=9))
    state = model.start(text(), latent_shape=LATENT, timeline=(event,))
    sizes = []
    for chunk in model.stream(state, 8):
        sizes.append(len(chunk.state.cached_frame_indices))
    assert sizes == [3, 6, 9, 6, 9, 6, 9, 6]


def test_two_events_may_open_the_same_chunk():
    events = (prompt_switch(3, 1, "keep"), rope_cut(3, keep_frames=1))
    model = streamer(StaticAnchor(1), RelativisticCache(budget_frames=9))
    state = model.start(text(), latent_shape=LATENT, timeline=events, later_texts=[text(seed=6)])
    chunks = list(model.stream(state, 4))
    assert chunks[3].state.prompt == 1
    assert chunks[3].state.cached_frame_indices == (8, 9, 10, 11)
    single = Event(3, prompt=1, keep_frames=1, live_start=45.0)
    both = model.step(replace(chunks[2].state, timeline=(single,)))
    assert torch.equal(both.latents_BFCHW, chunks[3].latents_BFCHW)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: prompt_switch(3, 1, "recache", frames=0), "`frames`"),
        (lambda: restart(0), "`every`"),
    ],
)
def test_events_that_make_no_sense_are_refused(build, name):
    with pytest.raises(ValueError, match=name):
        build()


def test_a_restart_begins_with_an_image_latent_and_resumes_exactly():
    schedule = FewStepSchedule(3, steps=(1000, 500), shift=1.0)
    cache = SlidingCache(window_frames=6)
    module = StreamModule(
        backbone(), **parts(anchor=StaticAnchor(0), cache=cache, schedule=schedule)
    )
    event = restart(1, overlap_frames=2)
    state = module.open_stream(["drifting west"], timeline=(event,))
    pieces = list(module.stream(state, 4))
    before = pieces[1]
    overlap = before.state.recent_BFCHW[:, -2:]
    picture = before.video_BFCHW[:, -1 - module.codec.temporal_stride].unsqueeze(1)
    torch.testing.assert_close(overlap[:, :1], module.codec.encode(picture))
    assert torch.equal(overlap[:, 1:], before.chunk.latents_BFCHW[:, -1:])
    again = list(module.stream(before.state, 2))
    assert torch.equal(again[-1].video_BFCHW, pieces[-1].video_BFCHW)
    plain = replace(event, reencode_first=False)
    other = list(module.stream(module.open_stream(["drifting west"], timeline=(plain,)), 4))
    assert torch.equal(other[1].video_BFCHW, pieces[1].video_BFCHW)
    far = replace(event, recache_frames=5)
    with pytest.raises(ValueError, match="`reencode_first` needs `recache_frames` of 1 up to"):
        list(module.stream(module.open_stream(["drifting west"], timeline=(far,)), 4))
