"""Loops of known period: found where they are, and nowhere else."""

import math

import pytest
import torch
from toy_videos import pan, resets, still, views

from lightning_adastate.metrics import VideoLoops, video_curves
from lightning_adastate.metrics.video_loops import _period, autocorrelation, loop_scores


def period(video):
    found = loop_scores(video_curves(video))
    assert found.loops.item() == float(not found.loop_period.isnan().item())
    return found.loop_period.item()


def wave(object_row=5, frames=36, every=9):
    """A square that goes round before a scene that stands still: most of the picture never changes."""
    video = still(frames).clone() * 0.5
    for t in range(frames):
        column = 3 * (t % every)
        video[:, t, :, object_row : object_row + 4, column : column + 4] = 1.0
    return video


@pytest.mark.parametrize("every", [2, 5, 8, 12])
def test_a_loop_has_its_period(every):
    assert period(resets(24, every, blur=9)) == every


def test_a_loop_that_is_seen_only_once_and_a_half_is_none_yet():
    assert math.isnan(period(resets(23, 12, blur=9)))
    assert period(resets(24, 12, blur=9)) == 12


def test_the_period_is_the_shortest_one():
    assert period(resets(64, 8, blur=9)) == 8, "16 and 24 frames later it is as it was, too"


def test_a_slow_video_is_no_loop_of_one_frame():
    """By hand: what is like itself a frame later must have been away before it is back, at its best lag."""
    slow_loop = [1.0, 0.95, 0.85, 0.5, 0.1, 0.5, 0.85, 0.95, 0.85, 0.5]
    assert _period(slow_loop) == 7
    assert math.isnan(_period([1.0, 0.95, 0.85, 0.5, 0.1, 0.0, 0.0, 0.4]))
    assert math.isnan(_period([1.0, 0.95, 0.85, 0.5, 0.4, 0.85, 0.9])), "it was not away"


def test_a_small_object_loops_in_a_scene_that_stands_still():
    assert period(wave()) == 9


def test_there_and_back_is_a_loop():
    assert period(views([(0, 2 * abs(t % 12 - 6)) for t in range(36)], blur=9)) == 12


def test_noise_on_every_frame_does_not_hide_a_loop():
    torch.manual_seed(0)
    noisy = resets(32, 8, blur=9) + 0.05 * torch.randn(1, 32, 3, 21, 33)
    assert period(noisy.clamp(0, 1)) == 8


@pytest.mark.parametrize(
    "video",
    [pan(24, blur=9), still(24), torch.rand(1, 24, 3, 21, 33), torch.zeros(1, 24, 3, 21, 33)],
    ids=["pan", "still", "noise", "black"],
)
def test_what_does_not_repeat_itself_has_no_period(video):
    assert math.isnan(period(video))


def test_the_autocorrelation_is_the_sum_over_pairs_of_frames():
    small = torch.randn(2, 9, 5, dtype=torch.float64)
    change = small - small.mean(1, keepdim=True)
    found = autocorrelation(small)
    assert found.shape == (2, 5)
    for lag in range(5):
        early, late = change[:, : 9 - lag], change[:, lag:]
        norm = (early.square().sum((1, 2)) * late.square().sum((1, 2))).sqrt()
        torch.testing.assert_close(found[:, lag], (early * late).sum((1, 2)) / norm)


def test_the_metric_counts_loops_and_averages_the_periods_there_are():
    metric = VideoLoops()
    for video in (resets(24, 8, blur=9), resets(24, 12, blur=9), pan(24, blur=9)):
        metric.update(video)
    found = metric.compute()
    assert found["loops"].item() == pytest.approx(2 / 3)
    assert found["loop_period"].item() == 10.0
