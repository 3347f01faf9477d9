"""Recurrent teacher forcing: true content at every pass's level, and a state that learns from later chunks."""

import pytest
import torch
from tiny import LATENT, streamer, text
from training_toy import ClipData, causal, trainer

from lightning_adastate.anchors import AdaptiveAnchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.flow import add_noise
from lightning_adastate.losses import FlowMatchingLoss
from lightning_adastate.noise import CounterNoise, NoiseKey, NoiseSource
from lightning_adastate.schedules import DiagonalSchedule, FewStepSchedule, RollingSchedule
from lightning_adastate.streaming.denoise import Taught
from lightning_adastate.training import RecurrentFlowMatching

STEPS = {"steps": [1000, 700, 300], "shift": 1.0}
CLIP = torch.randn(2, 12, *LATENT, generator=torch.Generator().manual_seed(3))


def opened(model, chunks=0, **options):
    """A stream of two rows after some true chunks."""
    state = model.start(text(2), latent_shape=LATENT, seed=4)
    for index in range(chunks):
        taught = Taught(CLIP[:, 3 * index : 3 * index + 3])
        state = model.step(state, taught=taught, **options).state
    return state


class Inputs:
    """Writes down what the network is given."""

    def __init__(self, model):
        self.seen = []
        model.backbone.register_forward_pre_hook(
            lambda _, args, kwargs: self.seen.append((args[0], kwargs["timestep_BF"])),
            with_kwargs=True,
        )


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["renoise", "euler"])
def test_every_pass_sees_true_content_at_its_own_level(sampler):
    model = streamer(sampler=sampler, **STEPS)
    state = opened(model, 3)
    watched, clean = Inputs(model), CLIP[:, 9:12]
    model.step(state, taught=Taught(clean))
    sigmas = [one.sigma for one in model.schedule.passes(3)]
    assert len(watched.seen) == 4
    for step, (live, timestep) in enumerate(watched.seen):
        assert live.shape[1] == 4  # one state frame in front
        key = NoiseKey(3, 0 if sampler == "euler" else step, "content")
        noise = model.noise.draw(key, seed=4, stream_ids=[0, 1], shape_FCHW=(3, *LATENT))
        wanted = add_noise(clean, noise, sigmas[step]) if step < 3 else clean
        torch.testing.assert_close(live[:, 1:], wanted, atol=2e-6, rtol=0.0)
        assert bool((timestep == 1000 * sigmas[step]).all())


@torch.no_grad()
def test_the_state_goes_on_from_its_own_x0():
    model = streamer(**STEPS)
    state = opened(model, 3)
    watched = Inputs(model)
    chunk = model.step(state, taught=Taught(CLIP[:, 9:12]))
    hidden = [live[:, :1] for live, _ in watched.seen]
    noise = model.noise.draw(
        NoiseKey(3, 0, "state"), seed=4, stream_ids=[0, 1], shape_FCHW=(1, *LATENT)
    )
    assert torch.equal(hidden[0], noise)
    torch.testing.assert_close(hidden[3], chunk.state_latents_BFCHW)


@torch.no_grad()
def test_true_content_is_committed_and_the_prediction_is_returned():
    model = streamer(StaticAnchor(1), **STEPS)
    state = opened(model, 3)
    clean = CLIP[:, 9:12]
    chunk = model.step(state, taught=Taught(clean), exit_step=1)
    given = model.step(state, given_BFCHW=clean)
    assert torch.equal(chunk.state.recent_BFCHW, given.state.recent_BFCHW)
    ours, theirs = (each.state.blocks[-1] for each in (chunk, given))
    assert torch.equal(ours.key_LBFTND, theirs.key_LBFTND)
    assert not torch.allclose(chunk.latents_BFCHW, clean)


@torch.no_grad()
def test_without_a_hidden_state_the_exit_pass_alone_runs_and_gives_the_same():
    """It must be what a stream with all passes predicts there: nothing before the exit leaves a trace."""
    model = streamer(StaticAnchor(1), **STEPS)
    state = opened(model, 3)
    watched = Inputs(model)
    chunk = model.step(state, taught=Taught(CLIP[:, 9:12]), exit_step=2)
    assert len(watched.seen) == 2
    live, _ = watched.seen[0]
    noise = model.noise.draw(
        NoiseKey(3, 2, "content"), seed=4, stream_ids=[0, 1], shape_FCHW=(3, *LATENT)
    )
    torch.testing.assert_close(live, add_noise(CLIP[:, 9:12], noise, 0.3), atol=2e-6, rtol=0.0)
    velocity, target, _ = model.teacher_forcing_step(
        state,
        CLIP[:, 9:12],
        timestep_B=torch.full((2,), 300.0),
        sigma_B=torch.full((2,), 0.3),
        noise=_Shifted(model.noise, 2),
    )
    error = (CLIP[:, 9:12] - chunk.latents_BFCHW) / 0.3
    torch.testing.assert_close(error, velocity - target, atol=2e-5, rtol=1e-4)


class _Shifted(NoiseSource):
    """Gives step 0 the noise of another step."""

    def __init__(self, source, step):
        self.source, self.step = source, step

    def draw(self, key, **options):
        return self.source.draw(key._replace(step=self.step), **options)


@torch.no_grad()
def test_context_noise_reaches_the_clean_pass_and_the_content_alone():
    model = streamer(**STEPS)
    state = opened(model, 3)
    watched, clean = Inputs(model), CLIP[:, 9:12]
    levels = torch.tensor([0.0, 0.5])
    chunk = model.step(state, taught=Taught(clean, levels))
    past, timestep = watched.seen[-1]
    assert torch.equal(past[0, 1:], clean[0])
    torch.testing.assert_close(past[:, :1], chunk.state_latents_BFCHW)
    strange = past[1, 1:] - 0.5 * clean[1]
    assert 0.4 < float(strange.std()) < 0.6
    assert bool((timestep == 0.0).all())
    torch.testing.assert_close(chunk.state.recent_BFCHW[:, -3:], clean)


class _TrainableNoise(CounterNoise):
    """The state's noise of one chunk is a leaf: its gradient is what that chunk's state learns."""

    def __init__(self, chunk):
        self.chunk, self.leaf = chunk, None

    def draw(self, key, **options):
        drawn = super().draw(key, **options)
        if key.slot != "state" or key.chunk != self.chunk or key.step:
            return drawn
        self.leaf = drawn.requires_grad_()
        return self.leaf


@pytest.mark.parametrize(
    ("kv_gradient", "learns"),
    [("all", True), ("state", True), ("straight_through", True), ("detach", False)],
)
def test_a_state_learns_from_the_chunk_after_the_next_unless_it_is_detached(kv_gradient, learns):
    model = streamer(**STEPS)
    noise = _TrainableNoise(2)
    with torch.no_grad():
        state = opened(model, 2)
    for index in (2, 3):
        taught = Taught(CLIP[:, 3 * index : 3 * index + 3])
        state = model.step(
            state, taught=taught, exit_step=0, kv_gradient=kv_gradient, noise=noise
        ).state
    chunk = model.step(state, taught=Taught(CLIP[:, :3]), exit_step=0, noise=noise)
    loss = (chunk.latents_BFCHW - CLIP[:, :3]).square().mean()
    (gradient,) = torch.autograd.grad(loss, noise.leaf, allow_unused=True)
    assert (gradient is not None and bool(gradient.abs().sum() > 0)) is learns


def stage(**options):
    """The stage at tiny size."""
    chosen = {"schedule": FewStepSchedule(1, **STEPS), "loss": FlowMatchingLoss(shift=1.0)}
    return causal(stage=RecurrentFlowMatching, **{**chosen, **options})


def test_the_loss_is_the_velocity_s_error_averaged_over_frames():
    model = stage(exit_shares=[0.0, 1.0, 0.0], anchor=StaticAnchor(0))
    batch = next(iter(ClipData(4).train_dataloader()))
    draws = model.draws_of(0, "training")
    latents, embedded = model.encode_batch(batch, draws)
    with torch.no_grad():
        found = model.clip_errors(model.generator, latents, embedded, draws)["loss"]
        state = model.open_clip(model.generator, latents, embedded, draws)
        total = 0.0
        for clean in latents.split(1, dim=1):
            chunk = model.generator.step(state, taught=Taught(clean), exit_step=1)
            state = chunk.state
            total += float(((chunk.latents_BFCHW - clean) / 0.7).square().mean())
    assert float(found) == pytest.approx(total / latents.shape[1], rel=1e-5)


def test_training_lowers_the_loss(tmp_path):
    model = stage(anchor=AdaptiveAnchor(1))
    data = ClipData(4)
    draws = model.draws_of(0, "validation")
    batch = next(iter(data.train_dataloader()))

    @torch.no_grad()
    def loss():
        latents, embedded = model.encode_batch(batch, draws)
        return float(model.clip_errors(model.generator, latents, embedded, draws)["loss"])

    before = loss()
    trainer(tmp_path, max_epochs=15).fit(model, data)
    assert loss() < 0.95 * before  # the clips are noise: most of it stays


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exit_shares": [1.0]}, r"`exit_shares` must be 3 numbers of 0 or more.*got \[1.0\]"),
        ({"exit_shares": [0.0, 0.0, 0.0]}, "`exit_shares` must be 3 numbers"),
        ({"exit_shares": [-1.0, 1.0, 1.0]}, "`exit_shares` must be 3 numbers"),
        (
            {
                "schedule": RollingSchedule(1),
                "anchor": StaticAnchor(1),
                "cache": RelativisticCache(window_frames=12),
            },
            "RecurrentFlowMatching teaches one chunk at a time, RollingSchedule denoises",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stage(**options)


def test_a_schedule_without_a_clean_pass_can_be_taught():
    model = streamer(StaticAnchor(1))
    model.schedule = DiagonalSchedule(3)
    state = model.start(text(2), latent_shape=LATENT, seed=4)
    chunk = model.step(state, taught=Taught(CLIP[:, :3]))
    assert torch.equal(chunk.state.recent_BFCHW, CLIP[:, :3])
