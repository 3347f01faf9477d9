"""ODE regression: which state each chunk starts from, what it sees, what carries loss; the teacher's solver."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import golden_backbone, streamer, text
from torch.optim import AdamW
from torch.utils.data import DataLoader
from training_toy import backbone, parts, trainer

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.backbones.masks import diffusion_forcing_mask, teacher_forcing_mask
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.data import TrajectoryData
from lightning_adastate.data.trajectory_shards import shard_path, write_shard
from lightning_adastate.flow import add_noise
from lightning_adastate.noise import NoiseKey, RecordedNoise
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.training import ODERegression
from lightning_adastate.training.parallel import (
    causal_mask,
    guided,
    masked_velocity,
    ode_sigmas,
    solve_ode,
    stream_sigmas,
)

SIGMAS = (1.0, 0.75, 0.5, 0.25, 0.0)
STEPS = (1000, 750, 500, 250)


def stage(**options):
    defaults = {
        "anchor": StaticAnchor(0),
        "schedule": FewStepSchedule(2, steps=STEPS, shift=1.0),
        "cache": RelativisticCache(window_frames=4),
        "optimizer": partial(AdamW, lr=1e-2, betas=(0.9, 0.99)),
    }
    return ODERegression(backbone(), **parts(**{**defaults, **options}))


def batch(rows=3, frames=6, context=False, sigmas=SIGMAS):
    """States of straight paths, so their noise can be read back: entry k is 100 k + frame + small noise."""
    generator = torch.Generator().manual_seed(4)
    end = torch.randn(rows, 1, frames, 12, 2, 3, generator=generator)
    noise = torch.randn(rows, 1, frames, 12, 2, 3, generator=generator)
    level = torch.tensor(sigmas)[None, :, None, None, None, None]
    return {
        "latents": (1 - level) * end + level * noise,
        "sigmas": torch.tensor(sigmas).expand(rows, -1),
        "context": torch.randn(rows, frames, 12, 2, 3, generator=generator) if context else None,
        "prompts": ["a b"] * rows,
    }


def asked(model, states, number=0):
    """The arguments of the one parallel forward of a batch."""
    model.trainer = trainer("/tmp")
    seen = {}
    real = model.generator.backbone.forward

    def spy(noisy, **options):
        out = real(noisy, **options)
        seen.update(options, noisy=noisy, velocity=out.velocity_BFCHW)
        return out

    model.generator.backbone.forward = spy
    draws = model.draws_of(number, "test")
    seen["loss"] = model.errors(model.generator, states, draws)["loss"]
    return seen


# -- what the network is asked ------------------------------------------------------------------------


def test_every_chunk_starts_from_a_state_of_its_own_at_that_states_timestep():
    states = batch(rows=40)
    seen = asked(stage(), states)
    times = seen["timestep_BF"]
    chunks = times.unflatten(1, (3, 2))
    assert torch.equal(chunks[..., 0], chunks[..., 1])
    assert set(times.flatten().tolist()) == {1000.0, 750.0, 500.0, 250.0}
    assert len({tuple(row) for row in chunks[..., 0].tolist()}) > 20
    for row in range(40):
        for frame in range(6):
            state = STEPS.index(int(times[row, frame]))
            expected = states["latents"][row, state, frame]
            assert torch.equal(seen["noisy"][row, frame], expected)


def test_one_draw_for_a_clip_gives_all_its_chunks_the_same_timestep():
    times = asked(stage(draw="clip"), batch(rows=20))["timestep_BF"]
    assert torch.equal(times, times[:, :1].expand(-1, 6))
    assert len(set(times[:, 0].tolist())) == 4


def test_the_loss_is_the_error_of_the_clean_end():
    states = batch()
    seen = asked(stage(), states)
    sigma = seen["timestep_BF"] / 1000
    x0 = seen["noisy"] - sigma[:, :, None, None, None] * seen["velocity"]
    expected = (x0 - states["latents"][:, -1]).square().mean()
    torch.testing.assert_close(seen["loss"], expected, rtol=1e-5, atol=0)


def test_the_true_velocity_has_no_loss():
    states = batch()
    model = stage()
    truth = (states["latents"][:, 0] - states["latents"][:, -1]).float()
    real = model.generator.backbone.forward
    model.generator.backbone.forward = lambda *a, **o: real(*a, **o)._replace(velocity_BFCHW=truth)
    model.trainer = trainer("/tmp")
    assert model.errors(model.generator, states, model.draws_of(0, "x"))["loss"] < 1e-10


def test_chunks_see_the_noisy_past_or_the_real_clips():
    noisy = asked(stage(reads="all"), batch())
    assert torch.equal(noisy["mask_FF"], diffusion_forcing_mask((2, 2, 2)))
    assert noisy["clean_latents_BFCHW"] is None
    states = batch(context=True)
    clean = asked(stage(reads="all", context="clean"), states)
    assert torch.equal(clean["mask_FF"], teacher_forcing_mask((2, 2, 2)))
    assert torch.equal(clean["clean_latents_BFCHW"], states["context"])


def test_clean_chunks_are_the_end_at_timestep_zero_without_loss():
    states = batch(rows=200)
    seen = asked(stage(clean_probability=0.25), states)
    clean = seen["timestep_BF"] == 0
    assert 0.15 < clean.float().mean() < 0.35
    end = states["latents"][:, -1]
    assert torch.equal(seen["noisy"][clean], end[clean])
    sigma = (seen["timestep_BF"] / 1000)[:, :, None, None, None]
    error = (seen["noisy"] - sigma * seen["velocity"] - end).square().mean((2, 3, 4))
    torch.testing.assert_close(seen["loss"], error[~clean].mean(), rtol=1e-4, atol=0)


def test_given_frames_are_clean_without_loss():
    states = batch()
    states["latents"][:, :, :2] = states["latents"][:, -1:, :2]
    seen = asked(stage(context_frames=2), states)
    assert not seen["timestep_BF"][:, :2].any()
    assert (seen["timestep_BF"][:, 2:] > 0).all()
    sigma = (seen["timestep_BF"] / 1000)[:, 2:, None, None, None]
    x0 = seen["noisy"][:, 2:] - sigma * seen["velocity"][:, 2:]
    expected = (x0 - states["latents"][:, -1, 2:]).square().mean()
    torch.testing.assert_close(seen["loss"], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("chunk", "first"), [(1, None), (2, 1), (1, 2)])
def test_frame_wise_and_odd_first_chunks_have_their_own_steps(chunk, first):
    schedule = FewStepSchedule(
        chunk,
        steps=(1000, 500),
        first_chunk_frames=first,
        first_chunk_steps=STEPS,
        shift=1.0,
    )
    frames = (first or chunk) + 4
    model = stage(schedule=schedule, cache=RelativisticCache(window_frames=3))
    times = asked(model, batch(rows=60, frames=frames))["timestep_BF"]
    size = first or chunk
    assert set(times[:, :size].flatten().tolist()) == {1000.0, 750.0, 500.0, 250.0}
    assert set(times[:, size:].flatten().tolist()) == {1000.0, 500.0}
    assert torch.equal(times[:, :size], times[:, :1].expand(-1, size))


def test_frame_wise_trains(tmp_path):
    schedule = FewStepSchedule(1, steps=(1000, 500), first_chunk_steps=STEPS, shift=1.0)
    model = stage(schedule=schedule, context="clean", ema_decay=0.5)
    states = batch(context=True)
    before = model.generator.backbone.head.head.weight.clone()
    loader = DataLoader([0] * 6, collate_fn=lambda _: states)
    trainer(tmp_path).fit(model, loader, loader)
    assert model.global_step == 6
    assert not torch.equal(before, model.generator.backbone.head.head.weight)


def test_training_lowers_the_loss(tmp_path):
    model, states = stage(), batch()
    loader = DataLoader([0] * 60, collate_fn=lambda _: states)
    model.trainer = trainer("/tmp")

    def score():
        with torch.no_grad():
            losses = [
                model.errors(model.generator, states, model.draws_of(i, "t"))["loss"]
                for i in range(8)
            ]
        return float(torch.stack(losses).mean())

    before = score()
    trainer(tmp_path).fit(model, loader)
    assert score() < 0.7 * before


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    for first in range(0, 8, 2):
        states = batch(rows=8)
        write_shard(
            shard_path(tmp_path / "made", first),
            states["latents"][first : first + 2],
            SIGMAS[:-1],
            states["prompts"][first : first + 2],
            settings={},
        )

    def fit(max_steps, ckpt_path=None):
        model = stage(ema_decay=0.5)
        saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5)
        more = {"enable_checkpointing": True, "callbacks": [saving]}
        run = trainer(tmp_path, max_steps=max_steps, max_epochs=-1, **more)
        data = TrajectoryData(str(tmp_path / "made"), batch_size=2, val_fraction=0.0)
        run.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        return model.state_dict()

    fit(5)  # in the middle of an epoch of four batches
    straight, resumed = fit(7), fit(7, tmp_path / "step=5.ckpt")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_prompts_are_streamed_as_long_as_the_clips():
    model = stage()
    video = model.predict_step(batch(rows=2), 0)
    assert video.shape == (2, 6, 3, 4, 6)


# -- what does not fit is refused ---------------------------------------------------------------------


def test_trajectories_of_other_levels_are_refused_or_trained_where_they_are():
    sigmas = (1.0, 0.96, 0.8889, 0.7273, 0.0)
    with pytest.raises(
        ValueError, match=r"at timestep 750.0, the trajectories have 1000.0, 960.0"
    ):
        asked(stage(), batch(sigmas=sigmas))
    times = asked(stage(off_schedule="train"), batch(rows=40, sigmas=sigmas))["timestep_BF"]
    assert {round(t, 1) for t in times.flatten().tolist()} == {1000.0, 960.0, 888.9, 727.3}


@pytest.mark.parametrize(
    ("options", "states", "message"),
    [
        ({"context": "clean"}, batch(), "needs the real clips"),
        ({}, batch(context=True), "saw a clean past"),
        ({"context_frames": 2}, batch(), "were not given to the teacher"),
        ({}, batch(frames=5), "5 latent frames are not chunks"),
        ({"context_frames": 6}, batch(), "leaves nothing"),
    ],
    ids=["no clips", "clips", "given", "length", "all given"],
)
def test_trajectories_of_another_kind_are_refused(options, states, message):
    with pytest.raises(ValueError, match=message):
        asked(stage(**options), states)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean_probability": 1.0}, r"`clean_probability` must be in \[0, 1\), got 1.0"),
        ({"clean_probability": 0.5, "context": "clean"}, "has no use with `context: clean`"),
        ({"context_frames": -2}, "`context_frames` must be 0 or more, got -2"),
        ({"context_frames": 3}, "3 latent frames are not chunks"),
    ],
)
def test_bad_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stage(**options)


# -- the parallel forward is what a stream sees ---------------------------------------------------------


@pytest.mark.parametrize(
    "cache", [RelativisticCache(window_frames=4), SlidingCache(budget_frames=4)]
)
@pytest.mark.parametrize("first", [None, 1])
def test_teacher_forcing_in_parallel_equals_streaming_with_its_window(cache, first):
    """Every chunk's velocity from clean, windowed keys and values: chunk by chunk, and at once."""
    model = streamer(StaticAnchor(0), cache, chunk_frames=2, first_chunk_frames=first)
    frames = (first or 2) + 6
    generator = torch.Generator().manual_seed(3)
    clean, fresh = torch.randn(2, 1, frames, 16, 4, 6, generator=generator)
    sizes = model.schedule.chunks_of(frames)
    drawn = {NoiseKey(i, 0, "content"): part for i, part in enumerate(fresh.split(sizes, dim=1))}
    mask = causal_mask(model, frames, "clean", "window")
    level = torch.tensor([0.6])
    with torch.no_grad():
        times = torch.full((1, frames), 600.0)
        noisy = add_noise(clean, fresh, level)
        at_once = masked_velocity(model.backbone, text(), mask, clean)(noisy, times)
        state = model.start(text(), latent_shape=(16, 4, 6))
        for expected, part in zip(
            at_once.split(sizes, dim=1), clean.split(sizes, dim=1), strict=True
        ):
            velocity, _, chunk = model.teacher_forcing_step(
                state,
                part,
                timestep_B=torch.tensor([600.0]),
                sigma_B=level,
                noise=RecordedNoise(drawn),
            )
            torch.testing.assert_close(velocity, expected, rtol=0, atol=2e-5)
            state = chunk.state


def test_everything_may_be_read_instead_of_the_window():
    model = streamer(StaticAnchor(0), RelativisticCache(window_frames=4), chunk_frames=2)
    assert torch.equal(causal_mask(model, 8, "noisy", "all"), diffusion_forcing_mask((2,) * 4))
    windowed = causal_mask(model, 8, "noisy", "window")
    assert torch.equal(windowed, diffusion_forcing_mask((2,) * 4, window_frames=4))
    assert windowed[7].int().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


# -- the teacher's ODE ----------------------------------------------------------------------------------


def test_the_grid_holds_the_generators_levels_and_few_more():
    public = FewStepSchedule(3, steps=STEPS, shift=5.0)
    stops = stream_sigmas(public)
    assert [round(1000 * s, 1) for s in stops] == [1000.0, 937.5, 833.3, 625.0]
    grid = ode_sigmas(48, 5.0, stops)
    assert len(grid) == 49
    assert [grid.index(stop) for stop in stops] == [0, 12, 24, 36]
    other = ode_sigmas(48, 8.0, stops)
    assert len(other) == 49 + 3
    assert set(stops) <= set(other)
    assert list(other) == sorted(other, reverse=True)
    assert (other[0], other[-1]) == (1.0, 0.0)


def test_levels_of_the_first_chunk_are_among_the_streams():
    schedule = FewStepSchedule(1, steps=(1000, 500), first_chunk_steps=STEPS, shift=1.0)
    assert stream_sigmas(schedule) == (1.0, 0.75, 0.5, 0.25)


def test_the_ode_of_a_constant_velocity_is_a_straight_line():
    generator = torch.Generator().manual_seed(0)
    noise, end = torch.randn(2, 2, 3, 4, 2, 2, generator=generator, dtype=torch.float64)
    times = []

    def velocity(latents, timestep):
        times.append(timestep)
        return noise - end

    states = solve_ode(velocity, noise, (1.0, 0.7, 0.5, 0.0), (1.0, 0.5))
    expected = torch.stack([noise, 0.5 * (noise + end), end], dim=1)
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)
    assert [t.unique().tolist() for t in times] == [[1000.0], [700.0], [500.0]]


def test_given_frames_stay_and_are_shown_at_timestep_zero():
    x = torch.randn(2, 4, 3, 2, 2)

    def velocity(latents, timestep):
        assert not timestep[:, :1].any()
        assert (timestep[:, 1:] > 0).all()
        return torch.ones_like(latents)

    states = solve_ode(velocity, x, (1.0, 0.5, 0.0), (1.0,), given_frames=1)
    assert torch.equal(states[:, -1, 0], x[:, 0])
    torch.testing.assert_close(states[:, -1, 1:], x[:, 1:] - 1.0)


def test_guidance_extrapolates_from_the_negative_prompt():
    def constant(value):
        return lambda latents, timestep: torch.full_like(latents, value)

    x, t = torch.zeros(1, 2, 1, 1, 1), torch.zeros(1, 2)
    assert guided(constant(2.0), constant(1.0), 3.0)(x, t).unique().tolist() == [4.0]
    assert guided(constant(2.0), None, 3.0)(x, t).unique().tolist() == [2.0]


def test_a_masked_velocity_is_the_golden_forward():
    """The solver's velocity is the network's own under the mask."""
    network, mask = golden_backbone(), diffusion_forcing_mask((3, 3))
    x, times = torch.randn(1, 6, 16, 4, 6), torch.full((1, 6), 500.0)
    with torch.no_grad():
        expected = network(x, timestep_BF=times, text=network.text_kv(text()), mask_FF=mask)
        assert torch.equal(
            masked_velocity(network, text(), mask)(x, times), expected.velocity_BFCHW
        )
