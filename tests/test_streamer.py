"""The one loop: equality of its paths, positions, gradients, and a parallel recomputation."""

from dataclasses import replace

import pytest
import torch
from tiny import LATENT, golden_backbone, streamer, text

from lightning_adastate.anchors import (
    AdaptiveAnchor,
    EMAAnchor,
    ReplacementAnchor,
    StaticAnchor,
    TriangularAnchor,
)
from lightning_adastate.backbones.masks import teacher_forcing_mask
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.flow import add_noise
from lightning_adastate.noise import NoiseKey, RecordedNoise
from lightning_adastate.streaming.state_file import load_stream_state, save_stream_state
from lightning_adastate.streaming.streamer import StreamBuffers, Streamer
from lightning_adastate.types import KV, Event, StreamState

ANCHORS = {
    "none": lambda: StaticAnchor(0),
    "static": lambda: StaticAnchor(1),
    "ema": lambda: EMAAnchor(1, decay=0.9),
    "replacement": lambda: ReplacementAnchor(1),
    "triangular": lambda: TriangularAnchor(2, bank_frames=4),
    "adaptive": lambda: AdaptiveAnchor(1),
    "adaptive3": lambda: AdaptiveAnchor(3),
}
every_anchor = pytest.mark.parametrize("name", ANCHORS)


def begin(model, rows=1, **options):
    return model.start(text(rows), latent_shape=LATENT, **options)


def latents(model, state, chunks):
    return torch.cat([chunk.latents_BFCHW for chunk in model.stream(state, chunks)], dim=1)


@every_anchor
def test_stream_equals_rollout(name):
    model = streamer(ANCHORS[name]())
    with torch.no_grad():
        rolled, _ = model.rollout(begin(model), 5)
    streamed = latents(model, begin(model), 5)
    torch.testing.assert_close(streamed, rolled, atol=1e-5, rtol=0)


@every_anchor
def test_ten_chunks_are_a_prefix_of_twenty(name):
    model = streamer(ANCHORS[name](), cache=RelativisticCache(window_frames=4), chunk_frames=1)
    assert torch.equal(latents(model, begin(model), 10), latents(model, begin(model), 20)[:, :10])


def test_a_state_can_be_branched():
    model = streamer()
    *_, last = model.stream(begin(model), 3)
    first, second = (latents(model, last.state, 2) for _ in range(2))
    other = latents(model, replace(last.state, seed=1), 2)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_stream_does_not_depend_on_its_batch():
    model = streamer()
    both = begin(model, rows=2, stream_ids=(4, 9))
    one = model.start(both.texts_PBSD[0, 1:], latent_shape=LATENT, stream_ids=(9,))
    torch.testing.assert_close(
        latents(model, both, 4)[1:], latents(model, one, 4), atol=1e-5, rtol=0
    )


def test_the_hidden_state_leaves_earlier_chunks_and_the_contents_noise_as_they_were():
    plain, adaptive = streamer(StaticAnchor(0)), streamer(AdaptiveAnchor(1))
    without, with_state = (latents(m, begin(m), 3) for m in (plain, adaptive))
    assert torch.equal(without[:, :6], with_state[:, :6]), "nothing happens before an eviction"
    assert not torch.allclose(without[:, 6:], with_state[:, 6:], atol=1e-3)


def test_the_window_of_adastate_is_that_of_the_paper():
    model = streamer(AdaptiveAnchor(1), RelativisticCache(window_frames=6))
    state, seen = begin(model), []
    for _ in range(4):
        plan = model.plan(state)
        seen.append((plan.positions.anchor, plan.positions.cached, plan.positions.live.key))
        state = model.step(state).state
    steady = ((0,), (2, 3, 4), (1, 5, 6, 7))
    assert seen == [((), (), (0, 1, 2)), ((), (0, 1, 2), (3, 4, 5)), steady, steady]
    assert state.cached_frame_indices == (6, 7, 8, 9, 10, 11), (
        "room is made when the next chunk begins"
    )


@pytest.mark.parametrize(
    ("window", "chunk", "kept"),
    [(3, 3, ()), (5, 3, (10, 11)), (7, 3, (8, 9, 10, 11)), (4, 2, (6, 7)), (5, 1, (0, 1, 2, 3))],
)
def test_a_window_need_not_be_a_multiple_of_the_chunk(window, chunk, kept):
    model = streamer(
        AdaptiveAnchor(1), RelativisticCache(window_frames=window), chunk_frames=chunk
    )
    state = begin(model)
    for _ in range(4):
        state = model.step(state).state
    plan = model.plan(state)
    assert (
        tuple(frame_index for block in plan.retained for frame_index in block.frame_indices)
        == kept
    )


def test_cached_passes_equal_the_parallel_teacher_forcing_forward():
    backbone = golden_backbone()
    model = streamer(StaticAnchor(0), SlidingCache(budget_frames=21), backbone=backbone)
    generator = torch.Generator().manual_seed(3)
    clean, noise = (torch.randn(1, 9, *LATENT, generator=generator) for _ in range(2))
    levels = torch.tensor([[0.9, 0.4, 0.05]])
    sigma = levels.repeat_interleave(3, dim=1)
    raw = text()
    expected = backbone(
        add_noise(clean, noise, sigma),
        timestep_BF=1000 * sigma,
        text=backbone.text_kv(raw),
        mask_FF=teacher_forcing_mask((3, 3, 3)),
        clean_latents_BFCHW=clean,
    ).velocity_BFCHW
    state = model.start(raw, latent_shape=LATENT)
    losses = []
    for chunk in range(3):
        part = slice(3 * chunk, 3 * chunk + 3)
        predicted, target, done = model.teacher_forcing_step(
            state,
            clean[:, part],
            timestep_B=1000 * levels[:, chunk],
            sigma_B=levels[:, chunk],
            noise=RecordedNoise({NoiseKey(chunk, 0, "content"): noise[:, part]}),
        )
        torch.testing.assert_close(predicted, expected[:, part], atol=1e-5, rtol=0)
        torch.testing.assert_close(target, noise[:, part] - clean[:, part])
        losses.append((predicted - target).square().sum())
        state = done.state
    (expected - (noise - clean)).square().sum().backward()
    parallel = [parameter.grad.clone() for parameter in backbone.parameters()]
    backbone.zero_grad()
    sum(losses).backward()
    for ours, theirs in zip((p.grad for p in backbone.parameters()), parallel, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_teaching_a_hidden_state_needs_its_frames():
    model = streamer()
    state = model.prefill(begin(model), torch.randn(1, 6, *LATENT))
    content, level = torch.randn(1, 3, *LATENT), torch.tensor([0.5])
    with pytest.raises(ValueError, match="expected 1 state frames, got 0"):
        model.teacher_forcing_step(state, content, timestep_B=1000 * level, sigma_B=level)
    lagged = torch.randn(1, 1, *LATENT)
    predicted, _, chunk = model.teacher_forcing_step(
        state, content, timestep_B=1000 * level, sigma_B=level, state_BFCHW=lagged
    )
    assert predicted.shape[1] == 4
    assert torch.equal(chunk.state_latents_BFCHW, lagged)
    assert chunk.state.anchor["state"].key_LBFTND.requires_grad


@pytest.mark.parametrize("start", [10**6, 2**40])
def test_a_stream_may_start_at_any_frame(start):
    for cache in (RelativisticCache(window_frames=6), SlidingCache(window_frames=6)):
        model = streamer(StaticAnchor(1), cache)
        near = latents(model, begin(model), 4)
        far = latents(model, begin(model, first_frame=start), 4)
        torch.testing.assert_close(far, near, atol=1e-5, rtol=0)


def test_absolute_positions_do_see_the_distance_to_the_sink():
    caches = (RelativisticCache(window_frames=6), SlidingCache(window_frames=6))
    models = [streamer(StaticAnchor(1), cache) for cache in caches]
    first, second = (latents(model, begin(model), 4) for model in models)
    assert (first[:, :6] - second[:, :6]).abs().max() < 1e-5
    assert (first[:, 9:] - second[:, 9:]).abs().max() > 1e-3


def test_given_frames_are_kept_and_continued():
    model = streamer()
    given = torch.randn(1, 6, *LATENT)
    state = model.prefill(begin(model), given)
    assert (state.chunk, state.first_frame, state.cached_frame_indices) == (2, 6, tuple(range(6)))
    assert torch.equal(state.recent_BFCHW, given)
    with pytest.raises(ValueError, match="fill whole chunks"):
        model.prefill(begin(model), given[:, :4])


def passes_of(model: Streamer, state: StreamState) -> list[float]:
    """The timesteps of the next chunk's passes, as the backbone sees them."""
    seen, forward = [], model.backbone.forward

    def spy(*inputs, timestep_BF, **options):
        seen.append(round(float(timestep_BF[0, -1])))
        return forward(*inputs, timestep_BF=timestep_BF, **options)

    model.backbone.forward = spy
    model.step(state)
    model.backbone.forward = forward
    return seen


def test_the_first_chunk_that_is_generated_has_the_first_chunks_steps(tmp_path):
    """Causal Forcing frame-wise, image to video: its public code counts the blocks behind the image."""
    model = streamer(
        StaticAnchor(0),
        chunk_frames=1,
        steps=(1000, 500),
        first_chunk_steps=(1000, 750, 500, 250),
        shift=1.0,
    )
    first, later = [1000, 750, 500, 250, 0], [1000, 500, 0]
    assert passes_of(model, begin(model)) == first
    state = model.prefill(begin(model), torch.randn(1, 2, *LATENT))
    assert passes_of(model, state) == first
    state = model.step(state).state
    assert passes_of(model, state) == later
    save_stream_state(tmp_path / "state", model.prefill(begin(model), torch.randn(1, 1, *LATENT)))
    assert passes_of(model, model.resume(load_stream_state(tmp_path / "state"))) == first


def test_a_hidden_state_is_denoised_beside_given_frames():
    model = streamer()
    state = model.prefill(begin(model), torch.randn(1, 6, *LATENT))
    given = torch.randn(1, 3, *LATENT)
    chunk = model.step(state, given_BFCHW=given)
    assert torch.equal(chunk.latents_BFCHW, given)
    assert chunk.state_latents_BFCHW.shape[1] == 1
    assert chunk.state_latents_BFCHW.abs().max() > 0


@every_anchor
def test_state_size_and_positions_are_constant_once_the_window_is_full(name):
    model = streamer(ANCHORS[name](), RelativisticCache(window_frames=2), chunk_frames=1)
    state, seen = begin(model), set()
    for chunk in range(30):
        plan = model.plan(state)
        if chunk >= 8:
            seen.add((plan.positions, sum(kv.num_frames for kv in state.blocks)))
        state = model.step(state, buffers=StreamBuffers()).state
    assert len(seen) == 1


# -- gradients --------------------------------------------------------------------------------------


def rolled(kv_gradient, chunks=4, exit_step=1):
    model = streamer()
    recorded = {}
    real = model.backbone.forward

    def spy(latents_BFCHW, **options):
        if torch.is_grad_enabled() and not latents_BFCHW.requires_grad:  # an exit pass
            latents_BFCHW = latents_BFCHW.clone().requires_grad_()
            recorded[len(recorded)] = latents_BFCHW
        return real(latents_BFCHW, **options)

    model.backbone.forward = spy
    out, state = model.rollout(begin(model), chunks, exit_step=exit_step, kv_gradient=kv_gradient)
    return model, recorded, out, state


def test_gradient_reaches_the_live_state_only_through_the_content():
    _, inputs, out, _ = rolled("detach")
    assert [x.shape[1] for x in inputs.values()] == [3, 3, 4, 4]
    out[:, 6:9].square().sum().backward()
    state, content = inputs[2].grad[:, :1], inputs[2].grad[:, 1:]
    assert state.abs().max() > 0
    assert content.abs().max() > state.abs().max()


def test_gradient_is_zero_across_a_detached_chunk_boundary():
    _, inputs, out, state = rolled("detach")
    out[:, 9:].square().sum().backward()
    assert inputs[3].grad.abs().max() > 0
    assert all(inputs[i].grad is None or not inputs[i].grad.any() for i in range(3))
    assert not any(block.key_LBFTND.requires_grad for block in state.blocks)
    assert not state.anchor["state"].key_LBFTND.requires_grad


@pytest.mark.parametrize("rule", ["straight_through", "all"])
def test_other_rules_do_reach_the_chunk_before(rule):
    _, inputs, out, _ = rolled(rule)
    out[:, 9:].square().sum().backward()
    assert inputs[2].grad.abs().max() > 0


def test_state_rule_reaches_the_state_before_but_no_cached_content():
    _, inputs, out, state = rolled("state")
    assert state.anchor["state"].key_LBFTND.requires_grad
    assert not any(block.key_LBFTND.requires_grad for block in state.blocks)
    out[:, 9:].square().sum().backward()
    assert inputs[2].grad[:, :1].abs().max() > 0


def test_straight_through_changes_gradients_and_no_value():
    outs = [rolled(rule)[2] for rule in ("detach", "straight_through")]
    torch.testing.assert_close(outs[0], outs[1], atol=1e-6, rtol=0)


# -- events -----------------------------------------------------------------------------------------


def test_a_prompt_switch_changes_its_chunk_and_none_before():
    model = streamer()
    second = text(seed=6)
    events = (Event(chunk=3, prompt=1),)
    plain = latents(model, begin(model), 5)
    switched = latents(model, begin(model, timeline=events, later_texts=[second]), 5)
    assert torch.equal(plain[:, :9], switched[:, :9])
    assert not torch.allclose(plain[:, 9:12], switched[:, 9:12], atol=1e-3)


def test_a_flush_keeps_the_newest_frames_and_the_anchor_does_not_see_the_dropped():
    model = streamer(StaticAnchor(1), RelativisticCache(budget_frames=9))
    state = begin(model, timeline=(Event(chunk=4, keep_frames=2),))
    *_, last = model.stream(state, 4)
    opened, _ = model.open_chunk(last.state)
    assert opened.cached_frame_indices == (10, 11)
    assert opened.anchor["sink"].frame_indices == (0,)


def test_a_recache_encodes_the_newest_frames_with_the_new_prompt():
    model = streamer(StaticAnchor(1), RelativisticCache(budget_frames=9))
    events = (Event(chunk=4, prompt=1, recache_frames=5),)
    state = begin(model, timeline=events, later_texts=[text(seed=6)])
    *_, last = model.stream(state, 4)
    opened, _ = model.open_chunk(last.state)
    assert opened.cached_frame_indices == (7, 8, 9, 10, 11)
    assert opened.prompt == 1
    assert not torch.allclose(
        opened.blocks[0].key_LBFTND[:, :, -1],
        last.state.blocks[-1].key_LBFTND[:, :, -1],
        atol=1e-3,
    )


# -- refusals ---------------------------------------------------------------------------------------


def test_bad_streams_are_refused():
    model = streamer()
    with pytest.raises(ValueError, match="expected 2 stream ids"):
        begin(model, rows=2, stream_ids=(1,))
    with pytest.raises(ValueError, match="expected latents of 16 channels, got 4"):
        model.start(text(), latent_shape=(4, 4, 6))
    with pytest.raises(ValueError, match="the timeline names prompt 1, got 1 prompts"):
        begin(model, timeline=(Event(chunk=1, prompt=1),))
    with pytest.raises(ValueError, match="smaller than a chunk of 3"):
        streamer(cache=RelativisticCache(window_frames=2))
    with pytest.raises(ValueError, match="expected given latents of"):
        model.step(begin(model), given_BFCHW=torch.randn(1, 2, *LATENT))


class TooMany(StaticAnchor):
    """Keeps and shows everything: its memory grows for as long as the stream goes on."""

    def absorb(self, contents, evicted, retained):
        return {"sink": KV.cat([*contents.values(), evicted])}


def test_an_anchor_that_shows_more_than_it_may_is_named():
    model = streamer(TooMany(3), cache=RelativisticCache(window_frames=4), chunk_frames=1)
    seen = []
    with pytest.raises(
        ValueError, match=r"TooMany.read shows 4 frames, and its `num_frames` is 3"
    ):
        seen.extend(model.stream(begin(model), 20))
