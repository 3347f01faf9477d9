"""Landmarks of PanWorld: what hides the hero, for how long, and that one sees it coming."""

import pytest
import torch

from lightning_adastate.metrics.pan_identity import hero_drawn
from lightning_adastate.worlds import PanWorld, decode_pan, wrap
from lightning_adastate.worlds.pan_map import LANDMARK_BRIGHTNESS

QUIET = {"shake": 0.0, "hero_jitter": 0.0, "max_speed": 1.0}


def world(**options):
    chosen = {**QUIET, "landmark_columns": (1, 3), "landmark_spacing": 16, "num_columns": 160}
    return PanWorld(**{**chosen, **options})


def test_landmarks_stand_at_their_columns_in_their_widths():
    seen = world(width=33).background(torch.tensor(0.0))
    dark = (seen - LANDMARK_BRIGHTNESS).abs().amax(dim=(0, 1)) < 1e-6
    assert dark.nonzero().flatten().tolist() == [0, 16, 17, 18, 32]


def test_a_landmark_half_a_pixel_on_covers_half_a_pixel():
    bare, seen = (
        world(landmark_columns=widths).background(torch.tensor(-0.5)) for widths in ((), (1, 3))
    )
    mixed = 0.5 * bare + 0.5 * LANDMARK_BRIGHTNESS
    torch.testing.assert_close(seen[..., :2], mixed[..., :2])
    torch.testing.assert_close(seen[..., 2:16], bare[..., 2:16])


def test_the_hero_is_away_exactly_while_its_columns_touch_a_landmark():
    here = world()
    truth = here.sample(range(30), 80, seed=3)
    for row in range(30):
        for frame in range(80):
            left = float(truth.position_BF[row, frame]) + here.hero_columns.start
            touches = False
            for number in range(
                -8, 24
            ):  # landmarks 0, 2, 4 ... are one column wide, the others three
                start, width = 16 * number, (1, 3)[number % 2]
                touches |= left < start + width and left + here.hero_size > start
            assert bool(truth.visible_BF[row, frame]) is not touches, (row, frame, left)


def test_a_hide_lasts_as_long_as_the_landmark_takes_to_pass_at_most():
    here = world()
    truth = here.sample(range(30), 400, seed=1)
    longest = here.longest_hide(truth.velocity_B)
    torch.testing.assert_close(longest, 7.0 / truth.velocity_B.abs() + 1.0)
    for row, limit in zip(truth.visible_BF.tolist(), longest.tolist(), strict=True):
        hides = "".join(".#"[not there] for there in row).strip("#").split(".")
        assert all(len(hide) <= limit for hide in hides)
        assert max(len(hide) for hide in hides) > limit - 3.0


def test_an_episode_begins_in_the_open():
    here = world(shake=1.0)
    assert bool(here.sample(range(200), 3, seed=5).visible_BF.all())


def test_the_decoder_finds_the_camera_between_landmarks():
    here = world(shake=0.5, slowest=2, hero_hues=6)
    episodes = here.episodes(6, 40, seed=1)
    reading = decode_pan(here, episodes.video_BFCHW)
    error = wrap(reading.position_BF - episodes.truth.position_BF, here.num_columns)
    assert error.abs().max() < 0.5
    assert torch.equal(hero_drawn(reading), episodes.truth.visible_BF)


def test_the_slowest_speed_and_the_hues_are_those_named():
    here = world(slowest=3, hero_hues=4)
    assert here.velocities == (-1.0, -0.75, 0.75, 1.0)
    colors = here.sample(range(60), 1, seed=2).color_B3
    assert len({tuple(round(float(part), 6) for part in color) for color in colors}) == 4
    with pytest.raises(ValueError, match="must be one of"):
        here.prompt(0.5)


def test_a_world_without_landmarks_is_the_world_it_was():
    """The old worlds' episodes and clips do not change."""
    plain = PanWorld().episodes(2, 5, seed=7)
    assert plain.truth.start_B.tolist() == pytest.approx([215.331312, 26.862539], abs=1e-5)
    assert not PanWorld().hides
    assert PanWorld(hidden_frames=5).hides
    assert world().hides


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"landmark_columns": (0,)}, r"`landmark_columns` must be 1 or more"),
        (
            {"landmark_columns": (10,)},
            r"leave 3 of `landmark_spacing` 16 columns free, got \[10\]",
        ),
        ({"num_columns": 176}, "must be a multiple of 32, 2 landmarks 16 apart, got 176"),
        ({"hidden_frames": 4}, "behind landmarks or for `hidden_frames` 4, not both"),
        ({"slowest": 5}, "`slowest` must be 1 to 4, got 5"),
        ({"slowest": 0}, "`slowest` must be 1 to 4, got 0"),
        ({"hero_hues": -1}, "`hero_hues` must be 0 or more, got -1"),
    ],
)
def test_landmarks_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        world(**options)
