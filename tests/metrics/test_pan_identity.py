"""Hides and returns, on videos whose hero is drawn by hand."""

from dataclasses import replace

import pytest
import torch

from lightning_adastate.metrics import pan_scores
from lightning_adastate.metrics.pan_identity import (
    HeroCycle,
    hero_cycles,
    retention,
    retention_per_cycle,
)
from lightning_adastate.worlds import PanWorld, decode_pan

WORLD = PanWorld(
    shake=0.0, hero_jitter=0.0, max_speed=1.0, landmark_columns=(1, 3), num_columns=160
)
RED, GREEN, PINK = (0.95, 0.1, 0.1), (0.1, 0.95, 0.1), (0.95, 0.3, 0.3)
LONGEST = torch.tensor([8.0])


def video(script: str) -> torch.Tensor:
    """Draw a stream from a script: R, G, P are a red, green or pink hero, a dot is none."""
    picture = WORLD.background(torch.arange(len(script)) * 0.5)[None]
    colors = {"R": RED, "G": GREEN, "P": PINK}
    for frame, letter in enumerate(script):
        if letter != ".":
            hero = torch.tensor(colors[letter])[:, None, None]
            picture[0, frame, :, WORLD.hero_rows, WORLD.hero_columns] = hero
    return picture


def cycles(script: str, longest: torch.Tensor = LONGEST) -> list[HeroCycle]:
    return hero_cycles(WORLD, decode_pan(WORLD, video(script)), longest)[0]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("RRR......RRR", [(3, 9, True)]),
        ("RRR......GGG", [(3, 9, False)]),
        ("RRR......PPP", [(3, 9, True)]),  # .28 away in RGB
        ("RRR......GGG......GGG", [(3, 9, False), (9 + 3, 18, True)]),  # as it was last seen
        ("RRR....RRR", []),  # four frames are no hide
        ("RRR...G...RRR", [(3, 10, True)]),  # one frame is a flicker
        ("RRR" + "." * 16, []),  # twice the longest hide is not overdue yet
        ("RRR" + "." * 17, [(3, None, False)]),
        ("." * 30, []),  # never seen, never lost
        ("R" * 30, []),
    ],
)
def test_hides_and_returns_are_found(script, expected):
    assert [tuple(one) for one in cycles(script)] == expected


def test_a_return_that_never_came_counts_as_lost_in_every_number():
    streams = [
        cycles("RRR......RRR......GGG"),
        cycles("RRR......RRR" + "." * 17),
        cycles("RRR......RRR"),
        cycles("R" * 9),
    ]
    share, count = retention(streams)
    assert share[:3].tolist() == [0.5, 0.5, 1.0]
    assert bool(share[3].isnan())
    assert count.tolist() == [2.0, 2.0, 1.0, 0.0]
    assert retention_per_cycle(streams) == [(3, 3), (0, 2)]
    assert streams[0][0].num_hidden == 6
    assert streams[1][1].num_hidden is None


def test_the_truth_keeps_every_hero():
    world = PanWorld(max_speed=1.2, slowest=2, landmark_columns=(1, 3, 6), shake=0.5)
    episodes = world.episodes(12, 80, seed=1)
    scores = pan_scores(world, episodes.video_BFCHW, episodes.truth)
    assert set(scores.retention[scores.cycles > 0].tolist()) == {1.0}
    assert scores.cycles.sum() > 30
    whole = torch.ones(12, dtype=torch.float64)  # a frame in forty is misread beside a landmark
    torch.testing.assert_close(scores.hero, whole, atol=0.05, rtol=0.0)


def test_a_hero_that_stays_away_has_no_colour_and_is_missed():
    episodes = WORLD.episodes(4, 60, seed=1)
    gone = WORLD.background(episodes.truth.position_BF)
    scores = pan_scores(WORLD, gone, episodes.truth)
    assert bool(scores.id_bias.isnan().all())
    assert scores.hero.tolist() == [0.0] * 4


def test_a_way_round_the_map_is_counted_on():
    """420 frames at full speed are longer than the map; a short-way distance would call that frozen."""
    quick = PanWorld(shake=0.0, max_speed=1.0, num_columns=160)
    truth = quick.sample(range(6), 420, seed=2)
    scores = pan_scores(quick, quick.render(truth), truth)
    torch.testing.assert_close(
        scores.displacement, torch.ones(6, dtype=torch.float64), atol=0.01, rtol=0.0
    )
    assert scores.loc_err.max() < 1.0
    frozen = replace(truth, position_BF=truth.start_B[:, None].expand(-1, 420))
    still = pan_scores(quick, quick.render(frozen), truth)
    assert still.displacement.abs().max() < 0.02
