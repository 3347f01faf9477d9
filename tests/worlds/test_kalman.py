"""The argument of the paper in one table; figures of ../shared/reference/evaluation.md, B.5.1."""

import numpy as np
import pytest

from lightning_adastate.worlds import KalmanWorld

WORLD = KalmanWorld()

# policy: gain at 1x, gain at 6x, drift at 6x, as an earlier, sampled prototype gave them
PUBLISHED = {
    "none": (1.01, 0.99, 7.9),
    "static": (1.03, 0.20, 3.0),
    "ema": (1.14, 0.95, 5.8),
    "adaptive": (1.01, 1.00, 1.8),
}


@pytest.mark.parametrize("policy", PUBLISHED)
def test_gains_are_the_published_ones_within_5_hundredths(policy):
    short, long, _ = PUBLISHED[policy]
    assert WORLD.run(policy, 21).gain == pytest.approx(short, abs=0.05)
    assert WORLD.run(policy, 126).gain == pytest.approx(long, abs=0.05)


@pytest.mark.parametrize("policy", PUBLISHED)
def test_drift_is_the_published_one_within_a_tenth(policy):
    assert WORLD.run(policy, 126).drift == pytest.approx(PUBLISHED[policy][2], rel=0.1)


def test_replacement_overshoots_within_and_beyond_the_horizon():
    # Published: 1.21 and 1.10. How far back its anchor stood there is not known; 7 frames give the
    # first figure and 1.19 for the second.
    assert WORLD.run("replacement", 21).gain == pytest.approx(1.21, abs=0.05)
    assert WORLD.run("replacement", 126).gain == pytest.approx(1.19, abs=0.02)


def test_the_argument_in_one_line_each():
    none, static, ema, _, adaptive = (
        WORLD.run(policy, 126) for policy in ("none", "static", "ema", "replacement", "adaptive")
    )
    assert static.gain < 0.3 * none.gain, "static freezes, none moves"
    assert static.drift < 0.5 * none.drift, "static holds, none drifts"
    assert static.drift < ema.drift < none.drift
    assert adaptive.gain == pytest.approx(1.0, abs=0.01), "adaptive moves as prompted"
    assert adaptive.drift < 0.7 * static.drift, "and holds best"


@pytest.mark.parametrize(
    ("noise", "weight"), [(0.5, 0.05), (1.0, 0.12), (2.0, 0.20), (4.0, 0.23)], ids=str
)
def test_the_noisier_a_frame_the_more_the_anchor_counts(noise, weight):
    assert KalmanWorld(noise).anchor_weight() == pytest.approx(weight, abs=0.01)


def test_all_agree_within_the_horizon():
    gains = [WORLD.run(policy, 21).gain for policy in ("none", "static", "adaptive")]
    assert gains == pytest.approx([1.0, 1.0, 1.0], abs=0.03)


def test_the_closed_form_is_what_sampling_gives():
    world = KalmanWorld()
    rule = world._learn("static")
    generator = np.random.default_rng(0)
    num, frames = 20_000, 60
    speed = generator.uniform(0.1, 0.4, num) * generator.choice([-1, 1], num)
    seen = speed[:, None] * np.arange(frames + 3) + 2.0 * generator.standard_normal(
        (num, frames + 3)
    )
    root = np.linalg.cholesky(rule.residual)
    for start in range(4, frames, 3):
        last = seen[:, start - 1]
        rows = [seen[:, i] - last for i in (0, start - 3, start - 2)]
        seen[:, start : start + 3] = (
            last[:, None]
            + np.stack([*rows, speed], 1) @ rule.weights
            + generator.standard_normal((num, 3)) @ root.T
        )
    time = np.arange(frames)[-20:]
    gain = ((seen[:, time] @ time) * speed).sum() / ((time @ time) * (speed**2).sum())
    assert world.run("static", frames).gain == pytest.approx(gain, abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KalmanWorld(0.0), "`noise` must be positive, got 0.0"),
        (lambda: KalmanWorld(slowest=0.5), "slowest <= fastest, got 0.5 and 0.4"),
        (lambda: KalmanWorld(horizon=9), "`horizon` must be 10 or more, got 9"),
        (lambda: KalmanWorld(decay=1.0), r"`decay` must be in \[0, 1\), got 1.0"),
        (lambda: KalmanWorld(frames_back=3), "`frames_back` must be 4 or more, got 3"),
        (lambda: WORLD.run("sink", 21), "`policy` must be one of .*got 'sink'"),
        (lambda: WORLD.run("none", 10), "`num_frames` must be 18 or more, got 10"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
