import math

import pytest
import torch

from lightning_adastate.worlds import PanWorld, decode_pan, wrap

WORLDS = {
    "default": PanWorld(),
    "v5": PanWorld(height=16, texture="many_periods"),
    "hiding": PanWorld(hidden_frames=7, hero_jitter=0.2, shake=2.0),
    "odd": PanWorld(height=9, width=13, hero_size=3, num_columns=160),
}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS.keys())
def test_the_decoder_finds_the_camera_within_half_a_pixel(world):
    episodes = world.episodes(6, 30, seed=1)
    truth, reading = episodes.truth, decode_pan(world, episodes.video_BFCHW)
    error = wrap(reading.position_BF - truth.position_BF, world.num_columns)
    assert error.abs().max() < 0.5
    # half-pixel crops: the error is uniform in +-0.25
    assert abs(error.std() - 0.5 / math.sqrt(12)) < 0.03
    assert reading.residual_BF.max() < 0.03


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS.keys())
def test_the_decoder_reads_the_colour_and_presence_of_the_hero(world):
    episodes = world.episodes(6, 30, seed=1)
    truth, reading = episodes.truth, decode_pan(world, episodes.video_BFCHW)
    there = truth.visible_BF
    torch.testing.assert_close(
        reading.color_BF3[there], truth.shown_BF3[there], atol=1e-6, rtol=0.0
    )
    assert reading.contrast_BF[there].min() > 0.05
    assert (~there).any() == bool(world.hidden_frames)
    if world.hidden_frames:
        assert reading.contrast_BF[~there].max() < 0.05


def test_an_episode_is_a_pure_function_of_seed_and_index():
    world = PanWorld(hidden_frames=5)
    three, one = world.sample([4, 9, 2], 8, seed=3), world.sample([9], 8, seed=3)
    for name in vars(one):
        assert torch.equal(getattr(three, name)[1:2], getattr(one, name)), name
    other = world.sample([9], 8, seed=4)
    assert not torch.equal(other.position_BF, one.position_BF)


def test_a_longer_episode_extends_a_shorter_one():
    world = PanWorld(hidden_frames=5)
    short, long = world.episodes(3, 7), world.episodes(3, 40)
    assert torch.equal(long.video_BFCHW[:, :7], short.video_BFCHW)
    assert torch.equal(long.truth.visible_BF[:, :7], short.truth.visible_BF)
    assert long.prompts == short.prompts


def test_the_world_has_the_statistics_its_arguments_name():
    world = PanWorld(shake=1.5, hero_jitter=0.05)
    truth = world.sample(range(40), 100, seed=2)
    way = truth.velocity_B[:, None] * torch.arange(100)
    assert (truth.position_BF - truth.start_B[:, None] - way).std() == pytest.approx(1.5, rel=0.05)
    # clamping to [0, 1] takes a little of the jitter
    jitter = (truth.shown_BF3 - truth.color_B3[:, None]).std()
    assert jitter == pytest.approx(0.05, rel=0.1)
    assert set(truth.velocity_B.tolist()) == set(world.velocities)


def test_the_hero_hides_for_the_given_time_and_is_seen_before():
    visible = PanWorld(hidden_frames=9).sample(range(20), 60).visible_BF
    assert visible[:, :3].all()
    for row in visible.tolist():
        runs = (
            "".join("x" if seen else "." for seen in row).replace("x.", "x|.").replace(".x", ".|x")
        )
        hidden = [run for run in runs.split("|") if "." in run]
        assert all(len(run) == 9 for run in hidden[:-1])
        assert len(hidden) >= 2


def test_the_prompt_names_the_motion_and_nothing_else():
    world = PanWorld()
    assert world.prompt(-0.2) == "drifting slowly west"
    assert world.prompt(0.4) == "drifting quickly east"
    assert [world.velocity(world.prompt(v)) for v in world.velocities] == list(world.velocities)
    assert sorted(world.velocities) == pytest.approx([-0.4, -0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4])


def test_a_positive_velocity_shows_what_lay_to_the_right():
    world = PanWorld()
    views = world.background(torch.tensor([20.0, 23.0]))
    torch.testing.assert_close(views[1, :, :, :-3], views[0, :, :, 3:], atol=1e-6, rtol=0.0)


def test_the_map_is_cyclic_and_has_no_seam():
    world = PanWorld()
    views = world.background(torch.tensor([0.0, 240.0, 239.5]))
    torch.testing.assert_close(views[1], views[0], atol=1e-6, rtol=0.0)
    # half a pixel of motion changes no pixel by much, here or elsewhere
    assert (views[2] - views[0]).abs().max() < 0.25


def test_the_hero_stands_on_its_own_grid():
    world = PanWorld()
    assert (world.hero_rows, world.hero_columns) == (slice(4, 8), slice(4, 8))
    v5 = PanWorld(height=16)
    assert (v5.hero_rows, v5.hero_columns) == (slice(8, 12), slice(4, 8))


def test_wrap_takes_the_shortest_way():
    there = wrap(torch.tensor([0.0, 121.0, -121.0, 120.0, -120.0, 239.0, 500.0]), 240)
    assert there.tolist() == [0.0, -119.0, 119.0, 120.0, 120.0, -1.0, 20.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 6}, "`height` and `width` must be at least twice `hero_size` 4, got 6 x 16"),
        (
            {"num_columns": 100},
            "`num_columns` must be a multiple of `texture_period` 16 .* width 16, got 100",
        ),
        ({"texture": "none"}, "`texture` must be one_period or many_periods, got 'none'"),
        ({"shake": -1.0}, "`shake` must be 0 or more, got -1.0"),
        ({"max_speed": 0.0}, "`max_speed` must be positive, got 0.0"),
        ({"hidden_frames": -1}, "`hidden_frames` must be 0 or more, got -1"),
    ],
)
def test_impossible_worlds_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PanWorld(**arguments)


def test_unknown_prompts_and_velocities_are_refused():
    with pytest.raises(ValueError, match=r"drifting slowly west.*got 'going up'"):
        PanWorld().velocity("going up")
    for velocity in (0.0, 0.15, 0.5):
        with pytest.raises(ValueError, match=f"got {velocity}"):
            PanWorld().prompt(velocity)


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match="expected frames of 3 x 8 x 16"):
        decode_pan(PanWorld(), torch.zeros(1, 1, 3, 8, 15))


def test_the_decoder_finds_the_nearest_crop_even_of_frames_unlike_any():
    world = PanWorld()
    video = torch.rand(2, 5, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    crops = world.background(torch.arange(480) / 2)
    difference = (video[:, :, None] - crops).double()
    difference[..., world.hero_rows, world.hero_columns] = 0.0
    distance = difference.square().sum((-3, -2, -1))
    reading = decode_pan(world, video)
    assert torch.equal(reading.position_BF, distance.argmin(-1) / 2.0)
    expected = (distance.amin(-1) / (3 * (8 * 16 - 4 * 4))).sqrt()
    torch.testing.assert_close(reading.residual_BF, expected, atol=1e-6, rtol=0.0)
