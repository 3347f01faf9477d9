"""Each synthetic failure must trip its own metric, and a perfect stream none."""

from dataclasses import replace

import pytest
import torch
from torchmetrics import MetricCollection

from lightning_adastate.metrics import PAN_IDEAL, PanMetrics, PanScores, pan_scores
from lightning_adastate.worlds import PanWorld

FRAMES = 126
HORIZON = 21
WORLD = PanWorld()
EPISODES = WORLD.episodes(64, FRAMES, seed=11)


def slow(factor):
    truth = EPISODES.truth
    missing = (1.0 - factor) * truth.velocity_B[:, None] * torch.arange(FRAMES)
    return WORLD.render(replace(truth, position_BF=truth.position_BF - missing))


def failure(name):
    video, time = EPISODES.video_BFCHW, torch.arange(FRAMES)
    ramp = (time / (FRAMES - 1))[:, None, None, None]
    if name == "oracle":
        return video
    if name == "frozen":
        return video[:, time.clamp(max=HORIZON - 1)]
    if name == "loop":
        return video[:, time % HORIZON]
    if name == "slow":
        return slow(0.4)
    if name == "red":
        return video.lerp(torch.tensor([1.0, 0.0, 0.0])[:, None, None], 0.5 * ramp)
    generator = torch.Generator().manual_seed(0)
    return (video + 0.4 * ramp * torch.randn(video.shape, generator=generator)).clamp(0, 1)


def mean_scores(video):
    scores = pan_scores(WORLD, video, EPISODES.truth)
    return {name: float(value.nanmean()) for name, value in scores._asdict().items()}


# Measured once in the default world; tolerances are three standard errors or more.
TABLE = {
    "oracle": {
        "slope": (1.0, 0.02),
        "displacement": (1.0, 0.02),
        "loc_err": (0.80, 0.06),  # the mean size of a shake of one pixel
        "shake": (1.02, 0.04),
        "id_bias": (0.015, 0.005),
        "bg_rmse": (0.007, 0.002),
        "drift": (0.0, 0.002),
        "novelty": (1.03, 0.03),  # shake shows a little more than the prompted way
        "return_to_start": (0.0, 0.0),
        "teleport": (0.0, 0.0),
    },
    "frozen": {
        "slope": (0.05, 0.05),
        "displacement": (0.20, 0.06),
        "shake": (0.39, 0.05),
        "novelty": (0.18, 0.03),
        "bg_rmse": (0.007, 0.002),
    },
    "loop": {
        "novelty": (0.18, 0.03),
        "displacement": (0.10, 0.05),
        "return_to_start": (0.49, 0.08),
        "bg_rmse": (0.007, 0.002),
        "drift": (0.0, 0.002),
    },
    "slow": {
        "slope": (0.40, 0.02),
        "displacement": (0.40, 0.02),
        "novelty": (0.46, 0.04),
        "shake": (1.02, 0.04),
        "return_to_start": (0.01, 0.03),
        "bg_rmse": (0.007, 0.002),
    },
    "red": {"id_bias": (0.41, 0.05), "bg_rmse": (0.22, 0.03), "drift": (0.21, 0.03)},
    "noise": {
        "slope": (1.0, 0.03),
        "displacement": (1.0, 0.03),
        "bg_rmse": (0.27, 0.02),
        "drift": (0.26, 0.02),
        "novelty": (0.42, 0.05),
        "id_bias": (0.16, 0.04),
    },
}


@pytest.mark.parametrize("name", TABLE)
def test_a_failure_gives_the_scores_it_should(name):
    scores = mean_scores(failure(name))
    for metric, (expected, tolerance) in TABLE[name].items():
        assert scores[metric] == pytest.approx(expected, abs=tolerance), metric


@pytest.mark.parametrize(
    ("name", "metric", "is_tripped"),
    [
        ("frozen", "slope", lambda x: x < 0.3),
        ("frozen", "shake", lambda x: x < 0.7),
        ("loop", "return_to_start", lambda x: x > 0.3),
        ("loop", "novelty", lambda x: x < 0.3),
        ("slow", "displacement", lambda x: x < 0.6),
        ("red", "id_bias", lambda x: x > 0.3),
        ("red", "teleport", lambda x: x > 0.02),
        ("noise", "drift", lambda x: x > 0.15),
    ],
)
def test_a_failure_trips_its_metric_and_a_perfect_stream_does_not(name, metric, is_tripped):
    assert is_tripped(mean_scores(failure(name))[metric])
    assert not is_tripped(mean_scores(failure("oracle"))[metric])


def test_a_colour_that_is_wrong_from_the_start_is_bias_and_not_drift():
    truth = EPISODES.truth
    wrong = WORLD.render(replace(truth, shown_BF3=truth.shown_BF3.roll(1, 0)))
    scores = mean_scores(wrong)
    assert scores["id_bias"] > 0.5
    assert scores["drift"] < 0.002


def test_a_jump_over_the_map_is_one_teleport():
    truth = EPISODES.truth
    jump = 60.0 * (torch.arange(FRAMES) >= 50)
    scores = mean_scores(WORLD.render(replace(truth, position_BF=truth.position_BF + jump)))
    assert scores["teleport"] == pytest.approx(1 / (FRAMES - 3))
    assert scores["loc_err"] == pytest.approx(60.0, abs=1.0)


def test_a_short_clip_has_its_last_14_frames_as_late():
    # Hero wrong in frames 3 to 6 only: not late in a clip of 21.
    episodes = WORLD.episodes(8, HORIZON, seed=1)
    shown = episodes.truth.shown_BF3.clone()
    shown[:, 3:7] = 0.0
    early = pan_scores(
        WORLD, WORLD.render(replace(episodes.truth, shown_BF3=shown)), episodes.truth
    )
    shown[:, 7] = 0.0
    later = pan_scores(
        WORLD, WORLD.render(replace(episodes.truth, shown_BF3=shown)), episodes.truth
    )
    clean = pan_scores(WORLD, episodes.video_BFCHW, episodes.truth)
    assert torch.equal(early.id_bias, clean.id_bias)
    assert (later.id_bias > clean.id_bias).all()
    assert clean.return_to_start.nan_to_num(0.0).max() == 0.0


def test_a_hidden_hero_is_judged_only_where_it_is_seen():
    world = PanWorld(hidden_frames=9)
    episodes = world.episodes(16, 60, seed=2)
    scores = pan_scores(world, episodes.video_BFCHW, episodes.truth)
    assert scores.id_bias.nanmean() < 0.06
    gone = world.background(episodes.truth.position_BF)
    assert pan_scores(world, gone, episodes.truth).id_bias.isnan().all()
    # A hero that never hides must not vanish.
    assert (pan_scores(WORLD, gone, episodes.truth).id_bias > 0.1).all()


def test_the_metric_averages_over_updates_as_if_all_came_at_once():
    parts, whole = PanMetrics(WORLD), PanMetrics(WORLD)
    video, truth = EPISODES.video_BFCHW[:5, :30], EPISODES.truth
    rows = {name: getattr(truth, name)[:5] for name in vars(truth)}
    for part in (slice(0, 3), slice(3, 5)):
        parts.update(video[part], replace(truth, **{k: v[part] for k, v in rows.items()}))
    whole.update(video, replace(truth, **rows))
    for name, value in whole.compute().items():
        torch.testing.assert_close(
            parts.compute()[name], value, atol=1e-12, rtol=0.0, equal_nan=True
        )
        assert value.dtype == torch.float64


def test_the_metric_can_be_reset_and_stands_in_a_collection():
    metrics = MetricCollection({"pan": PanMetrics(WORLD)}, prefix="val/")
    metrics.update(EPISODES.video_BFCHW[:, :40], EPISODES.truth)
    names = set(metrics.compute())
    assert names == {f"val/{name}" for name in PanScores._fields}
    metrics.reset()
    assert float(metrics["pan"].count.sum()) == 0.0


def test_every_score_has_an_ideal():
    assert tuple(PAN_IDEAL) == PanScores._fields


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PanMetrics(WORLD, num_given=0), "`num_given` must be 1 or more, got 0"),
        (
            lambda: pan_scores(WORLD, EPISODES.video_BFCHW[:2], EPISODES.truth),
            "one truth per video, got 64 for 2",
        ),
        (
            lambda: pan_scores(WORLD, EPISODES.video_BFCHW[:, :5], EPISODES.truth),
            "got 3 of 5",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
