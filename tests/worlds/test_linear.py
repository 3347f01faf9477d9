"""A static anchor freezes, no anchor drifts: exact numbers, checked by sampling; and the page that prints them."""

import re
from pathlib import Path

import numpy as np
import pytest

import lightning_adastate
from lightning_adastate.worlds import LinearWorld
from lightning_adastate.worlds.linear import features

WORLD = LinearWorld()
PAGE = Path(lightning_adastate.__file__).parent.parent / "docs" / "why-anchors.md"


@pytest.mark.skipif(not PAGE.exists(), reason="no docs in an installed package")
def test_the_page_prints_the_table_it_shows(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})  # noqa: S102
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3 + 4
    for line in printed:
        assert line in PAGE.read_text().splitlines(), line


def test_the_argument_in_one_line_each():
    none, static, ema = (WORLD.run(policy, 126) for policy in ("none", "static", "ema"))
    assert none.gain == pytest.approx(1.0, abs=0.01), "none moves"
    assert static.gain < 0.3 * none.gain, "static freezes"
    assert static.drift < 0.5 * none.drift, "static holds, none drifts"
    assert static.drift < ema.drift < none.drift


def test_all_agree_within_the_horizon():
    none, static = (WORLD.run(policy, 21) for policy in ("none", "static"))
    assert static.gain == pytest.approx(none.gain, abs=0.03)
    assert static.drift == pytest.approx(none.drift, rel=0.15)


def test_the_longer_the_stream_the_more_it_freezes():
    gains = [WORLD.run("static", frames).gain for frames in (21, 42, 84, 126, 252)]
    assert gains == sorted(gains, reverse=True)


def test_an_average_without_memory_is_the_newest_evicted_frame():
    """With decay 0 the anchor follows: nothing is pinned, and the model overshoots as it was fitted for an old one."""
    assert LinearWorld(decay=0.0).run("ema", 126).gain > 1.1


@pytest.mark.parametrize("policy", ["none", "static", "ema"])
def test_the_closed_form_is_what_sampling_gives(policy):
    frames, num = 60, 20_000
    rule = WORLD.fit(policy)
    generator = np.random.default_rng(0)
    speed = generator.uniform(0.1, 0.4, num) * generator.choice([-1, 1], num)
    seen = speed[:, None] * np.arange(frames) + 2.0 * generator.standard_normal((num, frames))
    expected = seen.copy()
    root = np.linalg.cholesky(rule.residual)
    anchor = None if policy == "none" else seen[:, 0].copy()
    for start in range(4, frames - 2, 3):
        last = seen[:, start - 1]
        oldest = start - 4 if anchor is None else start - 3
        rows = [] if anchor is None else [anchor - last]
        rows += [seen[:, frame] - last for frame in range(oldest, start - 1)]
        new = slice(start, start + 3)
        expected[:, new] = last[:, None] + np.stack([*rows, speed], 1) @ rule.weights
        seen[:, new] = expected[:, new] + generator.standard_normal((num, 3)) @ root.T
        if policy == "ema":
            for evicted in range(start - 3, start):
                anchor = 0.9 * anchor + 0.1 * seen[:, evicted]
    time = np.arange(frames - 2)[-20:]
    gain = ((expected[:, time] @ time) * speed).sum() / ((time @ time) * (speed**2).sum())
    spread = expected[:, time] - np.stack(
        [(expected[:, t] @ speed) / (speed @ speed) * speed for t in time], 1
    )
    found = WORLD.run(policy, frames - 2)
    late = np.arange(frames - 2)[-max((frames - 2) // 3, 14) :]
    assert late[0] == time[0] + 1
    assert found.gain == pytest.approx(gain, abs=0.02)
    assert found.drift == pytest.approx(spread.std(), rel=0.03)


def test_features_are_relative_to_the_last_frame():
    frames = np.diag([1.0, 2.0, 3.0, 4.0, 5.0])
    assert features(frames, 4, None).shape == (4, 5)
    with_anchor = features(frames, 4, frames[0])
    assert with_anchor[0].tolist() == [1.0, 0.0, 0.0, -4.0, 0.0]
    assert with_anchor[-1].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearWorld(0.0), "`noise` must be positive, got 0.0"),
        (lambda: LinearWorld(slowest=0.5), "slowest <= fastest, got 0.5 and 0.4"),
        (lambda: LinearWorld(horizon=9), "`horizon` must be 10 or more, got 9"),
        (lambda: LinearWorld(decay=1.0), r"`decay` must be in \[0, 1\), got 1.0"),
        (lambda: WORLD.run("adaptive", 21), "`policy` must be one of .*got 'adaptive'"),
        (lambda: WORLD.run("none", 10), "`num_frames` must be 18 or more, got 10"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
