"""Every score on videos whose answer is known by hand: still, pan, growing brightness, resets, noise."""

import math

import pytest
import torch
from toy_videos import pan, resets, still, views

from lightning_adastate.metrics import (
    VideoConsistency,
    VideoDrift,
    VideoDynamics,
    VideoMetrics,
    video_curves,
)
from lightning_adastate.metrics.video_drift import start_end_contrast, video_drift_error


def scores_of(video, **options):
    """All scores of one video by name, as numbers."""
    found = VideoMetrics(**options).per_video(video_curves(video))
    return {name: value.item() for name, value in found.items()}


# -- what each kind of failure looks like ------------------------------------------------------------


def test_a_still_video_is_perfectly_consistent_and_does_not_move():
    found = scores_of(still(), chunk_frames=3, window_frames=4)
    assert found["flicker"] == found["frozen"] == 1.0
    assert found["to_previous"] == pytest.approx(1.0)
    assert found["to_first"] == pytest.approx(1.0)
    assert found["shift"] == found["travel"] == found["residual"] == found["comebacks"] == 0.0
    assert found["novelty"] == pytest.approx(0.0, abs=1e-6)
    assert found["return_rate"] == 1.0, "it never left"
    assert all(found[name] == 0.0 for name in found if name.startswith("drift_"))
    assert all(math.isnan(found[n]) for n in ("motion_decay", "shift_decay", "boundary_jump"))


def test_a_pan_has_its_speed_and_is_new_all_the_time():
    found = scores_of(pan(20, blur=7), window_frames=6)
    assert found["shift"] == pytest.approx(math.hypot(1, 2), abs=1e-3)
    assert found["travel"] == pytest.approx(math.hypot(1, 2), abs=1e-3)
    assert found["residual"] < 1e-4
    assert found["motion_decay"] == pytest.approx(1.0, abs=0.2)
    assert found["shift_decay"] == pytest.approx(1.0, abs=1e-3)
    assert found["novelty"] > 0.5
    assert found["comebacks"] == found["frozen"] == found["return_rate"] == 0.0


def test_shaking_shifts_but_does_not_travel():
    found = scores_of(views([(1, 2 * (t % 2)) for t in range(13)]))
    assert found["shift"] == pytest.approx(2.0, abs=1e-3)
    assert found["travel"] == pytest.approx(0.0, abs=1e-3)


def test_a_video_that_stops_decays_to_zero_and_one_that_slows_down_to_its_share():
    stops = scores_of(views([(0, 2 * min(t, 6)) for t in range(13)]))
    assert stops["motion_decay"] == stops["shift_decay"] == 0.0
    assert stops["frozen"] == 0.5
    slows = scores_of(views([(0, 2 * min(t, 6) + max(0, t - 6)) for t in range(13)]))
    assert slows["shift_decay"] == pytest.approx(0.5, abs=0.01)


def test_resets_to_the_first_frame_are_counted():
    found = scores_of(resets(24, 8, blur=9), window_frames=7)
    assert found["comebacks"] == 2
    assert found["return_rate"] == pytest.approx(2 / 8), "the first frame and the second"
    assert found["novelty"] == pytest.approx(0.0, abs=1e-5), "all of it was seen 8 frames ago"
    assert scores_of(resets(24, 24, blur=9), window_frames=8)["comebacks"] == 0


def test_flow_alone_cannot_tell_a_loop_from_a_pan():
    loop, straight = (scores_of(resets(24, n, blur=9), window_frames=7) for n in (8, 24))
    assert loop["motion_decay"] == pytest.approx(straight["motion_decay"], abs=0.3)
    assert loop["novelty"] < 0.01
    assert straight["novelty"] > 0.5


def test_growing_brightness_drifts_in_light_alone():
    video = still(20).mul(0.25).add(torch.linspace(0.0, 0.38, 20)[None, :, None, None, None])
    found = scores_of(video)
    assert found["drift_luma"] == pytest.approx(0.38 * 17 / 19, abs=2e-3)  # 3 frames at each end
    assert found["drift_contrast"] == pytest.approx(0.0, abs=2e-3)
    assert found["drift_sharpness"] == pytest.approx(0.0, abs=2e-3)
    assert found["to_first"] == pytest.approx(1.0, abs=0.01), "likeness does not see it"
    assert found["vde_luma"] > 1.0


def test_overexposure_is_clipped_and_loses_contrast():
    video = (still(20) + torch.linspace(0.0, 1.0, 20)[None, :, None, None, None]).clamp(max=1.0)
    found = scores_of(video)
    assert found["drift_clipped"] > 0.8
    assert found["drift_contrast"] > 0.1


def test_growing_noise_drifts_in_sharpness_and_fools_novelty_and_decay():
    amount = torch.linspace(0.0, 0.3, 24)[None, :, None, None, None]
    found = scores_of((still(24) + amount * torch.randn(1, 24, 3, 21, 33)).clamp(0, 1))
    assert found["drift_sharpness"] > 10 * scores_of(pan(24))["drift_sharpness"]
    assert found["motion_decay"] > 2.0
    noise = scores_of(torch.rand(1, 24, 3, 21, 33), window_frames=8)
    assert noise["novelty"] > 0.8
    assert math.isnan(noise["return_rate"]), "it has no start to return to"


def test_a_seam_between_chunks_shows_in_the_boundary_jump():
    places = [(0, t + 3 * (t // 4)) for t in range(16)]
    found = scores_of(views(places), chunk_frames=4)
    assert found["boundary_jump"] > 2.0
    assert scores_of(views(places), chunk_frames=5)["boundary_jump"] < found["boundary_jump"]
    assert scores_of(pan(16), chunk_frames=4)["boundary_jump"] == pytest.approx(1.0, abs=0.15)
    shorter = [(0, t + 3 * ((t + 1) // 4)) for t in range(16)]
    first = scores_of(views(shorter), chunk_frames=4, first_chunk_frames=3)
    assert first["boundary_jump"] > 1.7


# -- the definitions ---------------------------------------------------------------------------------


def test_flicker_is_vbenchs_formula_on_eight_bit_frames():
    video = (torch.rand(1, 5, 3, 4, 7) * 255).round()
    pairs = [float((video[0, t] - video[0, t + 1]).double().abs().mean()) for t in range(4)]
    expected = (255.0 - sum(pairs) / 4) / 255.0
    assert scores_of(video.byte())["flicker"] == pytest.approx(expected, abs=1e-7)
    assert scores_of(video / 255)["flicker"] == pytest.approx(expected, abs=1e-7)


def test_the_boundary_jump_is_the_mean_across_over_the_mean_inside():
    video = (torch.rand(1, 8, 3, 4, 5) * 255).round() / 255
    steps = [float((video[0, t + 1] - video[0, t]).double().abs().mean()) for t in range(7)]
    expected = (steps[2] + steps[5]) / 2 / ((sum(steps) - steps[2] - steps[5]) / 5)
    assert scores_of(video, chunk_frames=3)["boundary_jump"] == pytest.approx(expected, abs=1e-6)


def test_novelty_compares_with_frames_older_than_the_window_only():
    video = (torch.rand(1, 7, 3, 6, 5) * 255).round() / 255
    video[0, 4], video[0, 5] = video[0, 1], video[0, 2]  # three frames ago: within the window
    small = video_curves(video).small[0].double()
    like = small @ small.T
    best = [max(float(like[t, s]) for s in range(t - 3)) for t in range(4, 7)]
    expected = sum(1 - value for value in best) / 3
    assert scores_of(video, window_frames=3)["novelty"] == pytest.approx(expected, abs=1e-6)
    assert math.isnan(scores_of(video, window_frames=6)["novelty"])


def test_novelty_in_blocks_is_novelty(monkeypatch):
    video = pan(20)
    whole = scores_of(video, window_frames=3)["novelty"]
    monkeypatch.setattr("lightning_adastate.metrics.video_consistency.ROWS", 4)
    assert scores_of(video, window_frames=3)["novelty"] == pytest.approx(whole, abs=1e-12)


def test_a_wobble_around_the_threshold_is_one_comeback():
    likeness = [1.0, 1.0, 0.5, 0.96, 0.9, 0.96, 0.9, 0.97, 0.5, 0.9, 0.96]
    from lightning_adastate.metrics.video_consistency import _comebacks

    values = torch.tensor([likeness], dtype=torch.float64)
    assert _comebacks(values, values[:, 1:2]).tolist() == [2.0]


def test_the_start_end_contrast_takes_fifteen_percent_at_each_end():
    values = torch.arange(20.0).double()[None]
    assert start_end_contrast(values).tolist() == [18.0 - 1.0]
    assert start_end_contrast(-values).tolist() == [17.0]
    assert start_end_contrast(torch.tensor([[1.0, 5.0, 2.0]])).tolist() == [1.0]


def test_the_drift_error_weighs_early_parts_most():
    late = torch.tensor([[2.0, 2.0, 2.0, 3.0]]).double()
    early = torch.tensor([[2.0, 3.0, 2.0, 2.0]]).double()
    assert video_drift_error(late, 4).tolist() == [1 * 1.0 / 2]
    assert video_drift_error(early, 4).tolist() == [3 * 1.0 / 2]
    assert video_drift_error(early.repeat_interleave(3, 1), 4).tolist() == [1.5]
    assert video_drift_error(early, 5).isnan().all(), "fewer frames than parts"
    assert video_drift_error(torch.zeros(1, 4), 4).isnan().all(), "nothing to compare with"


# -- torchmetrics ------------------------------------------------------------------------------------


def test_metrics_average_over_updates_and_leave_nan_out():
    moving, frozen = pan(12), still(12)
    metric = VideoMetrics(window_frames=4)
    metric.update(moving)
    metric.update(video_curves(frozen))
    both = metric.compute()
    one, other = scores_of(moving, window_frames=4), scores_of(frozen, window_frames=4)
    for name in ("shift", "flicker", "drift_luma", "novelty"):
        assert both[name].item() == pytest.approx((one[name] + other[name]) / 2, abs=1e-9)
    assert both["motion_decay"].item() == pytest.approx(one["motion_decay"])
    assert both["boundary_jump"].isnan()
    metric.reset()
    assert metric.total.sum() == 0


@pytest.mark.parametrize("kind", [VideoDynamics, VideoConsistency, VideoDrift])
def test_each_part_gives_its_share_of_the_suite(kind):
    video = torch.cat([pan(12), still(12)])
    part = kind()
    part.update(video)
    suite = VideoMetrics()
    suite.update(video)
    whole = suite.compute()
    for name, value in part.compute().items():
        torch.testing.assert_close(value, whole[name], equal_nan=True, atol=0, rtol=0)
    assert "wrongly" in kind.__doc__


def test_videos_in_a_batch_do_not_touch_each_other():
    videos = torch.cat([pan(12), resets(12, 4), still(12)])
    together = VideoMetrics(chunk_frames=4, window_frames=4).per_video(video_curves(videos))
    for row in range(3):
        alone = scores_of(videos[row : row + 1], chunk_frames=4, window_frames=4)
        for name, value in together.items():
            assert value[row].item() == pytest.approx(alone[name], abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_frames": 1}, "`chunk_frames` must be 2 or more .* got 1 and 1"),
        ({"first_chunk_frames": 9}, "`first_chunk_frames` needs `chunk_frames`"),
        ({"window_frames": 0}, "`window_frames` must be 1 or more, got 0"),
        ({"num_parts": 1}, "`num_parts` must be 2 or more, got 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VideoMetrics(**options)
