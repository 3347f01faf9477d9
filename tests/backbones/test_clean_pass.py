"""A clean pass ends at the last layer's keys and values, and what is kept is what a whole pass would keep."""

import pytest
import torch
from tiny import LATENT, golden_backbone, text

from lightning_adastate.anchors import AdaptiveAnchor, SelectedAnchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.buffers import StreamBuffers
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import Event

ANCHORS = {
    "static": lambda: StaticAnchor(1),
    "adaptive": lambda: AdaptiveAnchor(1),
    "selected": lambda: SelectedAnchor(1, num_selected=1),
}


def streamer_of(anchor):
    return Streamer(
        golden_backbone(),
        anchor=ANCHORS[anchor](),
        cache=RelativisticCache(window_frames=6),
        schedule=FewStepSchedule(3),
    )


def states(streamer, chunks=5):
    timeline = (Event(3, prompt=1, recache_frames=3),)
    state = streamer.start(
        text(2), later_texts=[text(2, seed=8)], timeline=timeline, latent_shape=LATENT
    )
    found, buffers = [], StreamBuffers()
    with torch.no_grad():
        for _ in range(chunks):
            chunk = streamer.step(state, buffers=buffers)
            state = chunk.state
            found.append(chunk)
    return found


@pytest.mark.parametrize("anchor", ANCHORS)
def test_latents_and_caches_are_those_of_whole_passes_to_the_last_bit(anchor):
    ended, whole = streamer_of(anchor), streamer_of(anchor)
    whole.backbone.ends_at_kv = False
    for a, b in zip(states(ended), states(whole), strict=True):
        assert torch.equal(a.latents_BFCHW, b.latents_BFCHW)
        pairs = [*zip(a.state.blocks, b.state.blocks, strict=True)]
        pairs += [(a.state.anchor[name], b.state.anchor[name]) for name in a.state.anchor]
        for kept, wanted in pairs:
            assert torch.equal(kept.key_LBFTND, wanted.key_LBFTND)
            assert torch.equal(kept.value_LBFTND, wanted.value_LBFTND)


def modules_run(streamer):
    """How often the last layer's feed-forward and the head run in each of two steady chunks."""
    state, buffers, runs = streamer.start(text(), latent_shape=LATENT), StreamBuffers(), []
    backbone = streamer.backbone
    for part in (backbone.blocks[-1].ffn, backbone.blocks[-1].cross_attn.o, backbone.head):
        part.register_forward_hook(lambda *args: runs.append(1))
    with torch.no_grad():
        for _ in range(4):
            runs.clear()
            state = streamer.step(state, buffers=buffers).state
    return len(runs)


def test_the_clean_pass_runs_no_last_attention_no_feed_forward_and_no_head():
    streamer = streamer_of("static")
    assert modules_run(streamer) == 4 * 3  # the four denoise passes
    streamer = streamer_of("static")
    streamer.backbone.ends_at_kv = False
    assert modules_run(streamer) == 5 * 3


def test_a_backbone_that_does_not_know_the_word_is_not_asked():
    streamer = streamer_of("static")
    streamer.backbone.ends_at_kv = False
    seen, real = [], streamer.backbone.forward
    streamer.backbone.forward = lambda *args, **named: seen.append(named) or real(*args, **named)
    states(streamer, 2)
    assert seen
    assert all("kv_only" not in named for named in seen)


def test_gradients_through_the_clean_pass_are_those_of_a_whole_one():
    gradients = []
    for ends in (True, False):
        streamer = streamer_of("adaptive")
        streamer.backbone.ends_at_kv = ends
        state = streamer.start(text(), latent_shape=LATENT)
        video, _ = streamer.rollout(state, 2, exit_step=0, kv_gradient="all")
        video.square().mean().backward()
        gradients.append([p.grad for p in streamer.backbone.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_keys_and_values_are_written_once_where_they_will_live():
    """No layer's keys are joined or copied: the cached block is the memory that the layers wrote."""
    streamer = streamer_of("static")
    backbone, rooms = streamer.backbone, []
    real = backbone._room
    backbone._room = lambda x: rooms.append(real(x)) or rooms[-1]
    (*_, last) = states(streamer, 2)
    block = last.state.blocks[-1]
    assert block.key_LBFTND.data_ptr() == rooms[-1][0].data_ptr()
    assert block.value_LBFTND.data_ptr() == rooms[-1][1].data_ptr()
    apart = streamer_of("static")
    apart.backbone._room = lambda x: None
    (*_, wanted) = states(apart, 2)
    assert torch.equal(block.key_LBFTND, wanted.state.blocks[-1].key_LBFTND)
    assert torch.equal(block.value_LBFTND, wanted.state.blocks[-1].value_LBFTND)
