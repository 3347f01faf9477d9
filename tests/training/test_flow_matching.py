"""Flow matching on real clips: parallel modes, and through the streaming window."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from tiny import LATENT, streamer, text
from torch.optim import AdamW
from training_toy import ClipData, causal, flow_matching, trainer

from lightning_adastate.anchors import AdaptiveAnchor, EMAAnchor, StaticAnchor
from lightning_adastate.backbones.masks import diffusion_forcing_mask, teacher_forcing_mask
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.training import CausalFlowMatching, WarmupDecay
from lightning_adastate.types import BackboneOutput


@pytest.mark.parametrize("mode", ["bidirectional", "diffusion_forcing", "teacher_forcing"])
def test_every_mode_trains(tmp_path, mode):
    model = flow_matching(mode=mode, context_frames=2, context_probability=0.5)
    trainer(tmp_path).fit(model, ClipData())
    assert model.global_step == 6


def test_causal_trains(tmp_path):
    model = causal(
        training_anchors=[StaticAnchor(0), StaticAnchor(1), EMAAnchor(1), AdaptiveAnchor(1)],
        context_noise=0.1,
    )
    trainer(tmp_path, max_epochs=2).fit(model, ClipData())
    assert model.global_step == 12


@pytest.mark.parametrize(
    ("count", "window", "chunk", "expected"),
    [
        (1, 6, 3, [[], [], [2], [5], [8]]),
        (3, 6, 3, [[], [], [0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        (2, 2, 1, [[], [], [0, 0], [0, 1], [1, 2]]),
        (1, 3, 3, [[], [2], [5], [8], [11]]),
    ],
)
def test_hidden_frames_stand_for_the_frames_just_before_the_window(count, window, chunk, expected):
    model = streamer(
        AdaptiveAnchor(count), RelativisticCache(window_frames=window), chunk_frames=chunk
    )
    state, seen = model.start(text(), latent_shape=LATENT), []
    for _ in range(5):
        seen.append(CausalFlowMatching.hidden_frames(model, state))
        state = model.prefill(state, torch.zeros(1, chunk, *LATENT))
    assert seen == expected


# -- what the network is asked ------------------------------------------------------------------------


def asked(model, latents, batch=0):
    """The arguments of the one parallel forward of a batch."""
    model.trainer = trainer("/tmp")
    seen = {}
    real = model.generator.backbone.forward

    def spy(noisy, **options):
        seen.update(options, noisy=noisy)
        return real(noisy, **options)

    model.generator.backbone.forward = spy
    text = model.encode_text(["a b"] * len(latents))
    model.clip_errors(model.generator, latents, text, model.draws_of(batch, "test"))
    return seen


def clips(rows=6, frames=6):
    return torch.randn(rows, frames, 12, 2, 3, generator=torch.Generator().manual_seed(1))


def test_a_teacher_gets_one_timestep_per_clip_and_sees_all_frames():
    seen = asked(flow_matching(), clips())
    assert seen["mask_FF"] is None
    assert seen["clean_latents_BFCHW"] is None
    times = seen["timestep_BF"]
    assert torch.equal(times, times[:, :1].expand(-1, 6))
    assert len(set(times[:, 0].tolist())) == 6


@pytest.mark.parametrize("mode", ["diffusion_forcing", "teacher_forcing"])
def test_a_causal_model_gets_one_timestep_per_chunk_and_a_mask(mode):
    options = {"schedule": FewStepSchedule(2), "cache": RelativisticCache(window_frames=4)}
    latents = clips()
    seen = asked(flow_matching(mode=mode, **options), latents)
    chunks = seen["timestep_BF"].unflatten(1, (3, 2))
    assert torch.equal(chunks[..., 0], chunks[..., 1])
    assert not torch.equal(chunks[:, 0], chunks[:, 1])
    if mode == "diffusion_forcing":
        assert torch.equal(seen["mask_FF"], diffusion_forcing_mask((2, 2, 2)))
        assert seen["clean_latents_BFCHW"] is None
    else:
        assert torch.equal(seen["mask_FF"], teacher_forcing_mask((2, 2, 2)))
        assert seen["clean_latents_BFCHW"] is latents


def test_given_frames_are_clean_at_timestep_zero_in_their_share_of_clips():
    latents = clips(rows=200)
    seen = asked(flow_matching(context_frames=2, context_probability=0.25), latents)
    times, noisy = seen["timestep_BF"], seen["noisy"]
    given = times[:, 0] == 0
    assert 0.15 < given.float().mean() < 0.35
    assert torch.equal(noisy[given, :2], latents[given, :2])
    assert not times[given, :2].any()
    assert (times[given, 2:] > 0).all()
    assert (times[~given] > 0).all()
    assert not torch.equal(noisy[given, 2:], latents[given, 2:])


def test_given_frames_carry_no_loss():
    """With a network that always answers zero, the loss is the mean square of the target."""
    model = flow_matching(context_frames=2, context_probability=1.0)
    torch.nn.init.zeros_(model.generator.backbone.head.head.weight)
    model.trainer = trainer("/tmp")
    latents = clips()
    latents[:, :2] = 100.0  # would drown the rest
    draws = model.draws_of(0, "test")
    loss = model.clip_errors(model.generator, latents, model.encode_text(["a"] * 6), draws)["loss"]
    assert 1.0 < loss.item() < 4.0


def test_dropped_prompts_become_the_negative_one():
    model = flow_matching(text_dropout=0.5, negative_prompt="nothing")
    model.trainer = trainer("/tmp")
    batch = {"video": torch.rand(40, 1, 3, 4, 6), "prompts": ["a b c"] * 40}
    _, text_BSD = model.encode_batch(batch, model.draws_of(0, "test"))
    nothing = model.encode_text(["nothing"])[0]
    dropped = sum(torch.equal(row, nothing) for row in text_BSD)
    assert 10 < dropped < 30
    _, kept = model.eval().encode_batch(batch, model.draws_of(0, "test"))
    assert not any(torch.equal(row, nothing) for row in kept)


def test_samples_keep_given_frames_and_follow_their_seed():
    model = flow_matching(negative_prompt="nothing")
    given = torch.randn(2, 2, 12, 2, 3)
    options = {"given_BFCHW": given, "steps": 3}
    first, again = (model.sample(["a", "b"], 4, **options) for _ in range(2))
    assert torch.equal(first[:, :2], given)
    assert torch.equal(first, again)
    assert not torch.equal(first, model.sample(["a", "b"], 4, **options, seed=1))
    assert not torch.equal(first, model.sample(["a", "b"], 4, **options, guidance=3.0))


def test_sampling_from_the_true_velocity_of_a_point_arrives_there():
    model = flow_matching()
    point = torch.randn(1, 4, 12, 2, 3)

    def forward(noisy, *, timestep_BF, text):
        sigma = (timestep_BF / 1000)[..., None, None, None]
        return BackboneOutput((noisy - point) / sigma, None)

    model.streamer.backbone.forward = forward
    torch.testing.assert_close(model.sample(["a"], 4, steps=5), point, atol=1e-4, rtol=0)


# -- through the window -------------------------------------------------------------------------------


def test_anchors_are_drawn_by_their_shares_and_alike_on_all_ranks():
    anchors = [StaticAnchor(0), StaticAnchor(1), AdaptiveAnchor(1)]
    model = causal(training_anchors=anchors, anchor_probabilities=[0.5, 0.0, 0.5])
    model.trainer = trainer("/tmp")
    drawn = []
    for batch in range(60):
        draws = model.draws_of(batch, "training")
        drawn.append(model.draw_streamer(model.generator, draws).anchor)
        torch.rand(1, generator=draws.rank_rng)  # what one rank draws of its own must not matter
    counts = [sum(anchor is one for one in drawn) for anchor in anchors]
    assert counts[1] == 0
    assert min(counts[0], counts[2]) > 15


def test_the_hidden_state_is_supervised_as_the_lagged_frame():
    model = causal(state_weight=1.0)
    torch.nn.init.zeros_(model.generator.backbone.head.head.weight)
    model.trainer = trainer("/tmp")
    latents = torch.zeros(4, 6, 12, 2, 3)
    latents[:, 1] = (
        100.0  # the hidden frame of chunk 3: window 2, chunk 1, so [2 3] behind frame 1
    )
    draws = model.draws_of(0, "test")
    errors = model.clip_errors(model.generator, latents, model.encode_text(["a"] * 4), draws)
    frames, hidden = 6, 4  # chunks 2 .. 5 have a live state: frames 0, 1, 2, 3
    assert errors["loss_state"].item() == pytest.approx(100.0**2 / hidden, rel=0.01)
    assert errors["loss_content"].item() == pytest.approx(100.0**2 / frames, rel=0.01)
    mixed = (frames * errors["loss_content"] + hidden * errors["loss_state"]) / (frames + hidden)
    torch.testing.assert_close(errors["loss"], mixed)


def test_context_noise_changes_later_chunks_only_in_half_the_clips():
    model = causal(context_noise=0.5, anchor=StaticAnchor(0))
    model.trainer = trainer("/tmp")
    level = model.draw_context_noise(torch.zeros(400, 1), model.draws_of(0, "test"))
    assert 0.4 < (level == 0).float().mean() < 0.6
    assert 0.4 < level.max() <= 0.5
    text = model.encode_text(["a"])
    state = model.generator.start(text, latent_shape=(12, 2, 3))
    clip, out = clips(1, 2), []
    for sigma in (None, torch.tensor([0.5])):
        now, parts = state, []
        for chunk in range(2):
            velocity, _, done = model.generator.teacher_forcing_step(
                now,
                clip[:, chunk : chunk + 1],
                timestep_B=torch.tensor([500.0]),
                sigma_B=torch.tensor([0.5]),
                context_sigma_B=sigma,
            )
            parts.append(velocity)
            now = done.state
        out.append(parts)
    assert torch.equal(out[0][0], out[1][0])
    assert not torch.allclose(out[0][1], out[1][1], atol=1e-4)


def test_parameters_of_all_training_anchors_are_optimised():
    class Scaled(StaticAnchor):
        def __init__(self):
            super().__init__(1)
            self.scale = torch.nn.Parameter(torch.ones(()))

    anchor = Scaled()
    model = causal(training_anchors=[anchor, StaticAnchor(0)])
    assert any(parameter is anchor.scale for parameter in model.trained_parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: causal(training_anchors=[StaticAnchor(0)], anchor_probabilities=[0.5, 0.5]),
            r"got \[0.5, 0.5\] for 1 anchors",
        ),
        (
            lambda: causal(training_anchors=[StaticAnchor(0)], anchor_probabilities=[0.0]),
            "are all zero",
        ),
        (lambda: causal(context_noise=1.0), r"`context_noise` must be in \[0, 1\), got 1"),
        (lambda: flow_matching(context_probability=0.5), "needs `context_frames` of 1 or more"),
        (lambda: flow_matching(context_probability=2.0), r"must be in \[0, 1\], got 2"),
        (lambda: flow_matching(text_dropout=0.1), "`text_dropout` 0.1 needs a `negative_prompt`"),
        (lambda: flow_matching().sample(["a"], 2, guidance=2.0), "needs a `negative_prompt`"),
    ],
)
def test_bad_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.slow
@pytest.mark.parametrize("build", [flow_matching, causal])
def test_training_lowers_the_loss(tmp_path, build):
    class Loss(Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.seen.append(float(trainer.callback_metrics["train/loss"]))

    loss = Loss()
    model = build(
        codec=PixelShuffleCodec(2, scale=0.01)
    )  # nearly black: the noise is all there is
    trainer(tmp_path, callbacks=[loss], max_epochs=15).fit(model, ClipData(8, val_count=0))
    assert sum(loss.seen[-8:]) < 0.8 * sum(loss.seen[:8])


def test_an_optimizer_step_uses_the_mean_over_its_batches(tmp_path):
    model = flow_matching(accumulate=3)
    weight = model.generator.backbone.head.head.bias
    seen = []
    step = model.step_generator

    def spy():
        seen.append(weight.grad.clone())
        return step()

    model.errors = lambda *args: {"loss": (model.batches_seen + 1) * weight.sum()}
    model.step_generator = spy
    trainer(tmp_path).fit(model, ClipData(12, val_count=0))
    assert model.global_step == 2
    torch.testing.assert_close(seen[0], torch.full_like(weight, 2.0))
    torch.testing.assert_close(seen[1], torch.full_like(weight, 5.0))


def test_the_learning_rate_and_the_clipping_reach_the_optimizer(tmp_path):
    model = flow_matching(
        optimizer=partial(AdamW, lr=1.0, betas=(0.0, 0.0), weight_decay=0.0),
        lr_scheduler=partial(WarmupDecay, decay="linear", decay_steps=4),
        clip_norm=1e-3,
    )
    rates, norms = [], []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append(round(optimizer.param_groups[0]["lr"], 3))
            grads = [p.grad for p in pl_module.generator.parameters() if p.grad is not None]
            norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))

    trainer(tmp_path, callbacks=[Watch()]).fit(model, ClipData(8, val_count=0))
    assert rates == [1.0, 0.775, 0.55, 0.325]
    assert max(norms) <= 1.001e-3
