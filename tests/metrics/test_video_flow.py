"""Dynamic degree: a moving square of known speed, VBench's sampling, threshold and count by hand."""

import math
import sys

import numpy as np
import pytest
import torch
from toy_videos import pan, still

from lightning_adastate.metrics import DynamicDegree, FlowRecorder
from lightning_adastate.metrics.video_flow import FlowCurves, optical_flow, top_speed

pytest.importorskip("cv2")


def square(frames=16, speed=4, size=64, side=24):
    """A textured square of known speed before a grey wall; speed in pixels per frame, to and fro."""
    torch.manual_seed(0)
    texture = torch.nn.functional.avg_pool2d(torch.rand(3, side + 4, side + 4), 5, 1)
    video = torch.full((1, frames, 3, size, size), 0.5)
    for t in range(frames):
        left = abs((speed * t) % (2 * (size - side)) - (size - side))
        video[0, t, :, 20 : 20 + side, left : left + side] = texture
    return video


def scores_of(video, fps=8.0, **options):
    metric = DynamicDegree(**options)
    metric.update(video, fps)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("flow", ["dis", "farneback"])
def test_a_moving_square_has_its_speed_and_is_dynamic(flow):
    found = scores_of(square(speed=4), flow=flow)
    assert found["flow_top"] == pytest.approx(4.0, abs=0.8)
    assert found["dynamic_degree"] == 1.0, "fast is 6 * 64 / 256 = 1.5 pixels"


def test_a_square_below_the_threshold_is_not_dynamic():
    found = scores_of(square(speed=1))
    assert found["flow_top"] == pytest.approx(1.0, abs=0.4)
    assert found["dynamic_degree"] == 0.0
    assert scores_of(still(16, size=(64, 64)))["dynamic_degree"] == 0.0


def test_eight_frames_a_second_are_sampled_so_slow_motion_adds_up():
    slow = square(frames=31, speed=1)
    assert scores_of(slow, fps=8)["dynamic_degree"] == 0.0
    every_third = scores_of(slow, fps=24)
    assert every_third["flow_top"] == pytest.approx(3.0, abs=0.8)
    assert every_third["dynamic_degree"] == 1.0


@pytest.mark.parametrize(
    ("fps", "interval"), [(4, 1), (8, 1), (11, 1), (12, 2), (16, 2), (24, 3), (30, 4)]
)
def test_the_interval_is_vbenchs(fps, interval):
    assert FlowRecorder(fps=fps).interval == interval


def test_fewer_frames_a_second_have_a_higher_threshold():
    recorders = [FlowRecorder(fps=fps) for fps in (4, 8, 16)]
    for recorder in recorders:
        recorder.append(still(4, size=(32, 64)))
    assert [recorder.curves().fast for recorder in recorders] == [1.5, 0.75, 0.75]


@pytest.mark.parametrize(
    ("samples", "needed"), [(3, 1), (5, 1), (6, 2), (10, 2), (14, 4), (16, 4), (40, 10)]
)
def test_about_a_quarter_of_the_samples_must_be_fast(samples, needed):
    """VBench's `round(4 * n / 16)`, which rounds halves to even: 10 samples need 2, 14 need 4."""
    speed = torch.zeros(2, samples - 1, dtype=torch.float64)
    speed[0, : needed - 1] = 2.0
    speed[1, :needed] = 2.0
    found = DynamicDegree().scores(FlowCurves(speed, 1.5))
    assert found.dynamic_degree.tolist() == [0.0, 1.0]


def test_two_samples_say_nothing():
    """VBench calls any such video dynamic, since a quarter of two rounds to none."""
    assert all(map(math.isnan, scores_of(square(frames=2)).values()))


def test_the_speed_of_a_pair_is_the_mean_over_the_fastest_twentieth():
    flow = np.zeros((10, 10, 2), np.float32)
    flow[0, :5] = [(3, 4), (0, 10), (6, 8), (5, 0), (0, 5)]
    flow[1, 1] = (1, 0)
    assert top_speed(flow) == pytest.approx((5 + 10 + 10 + 5 + 5) / 5)


def test_pieces_give_what_the_whole_gives():
    video = torch.cat([square(23), pan(23, size=(64, 64))])
    whole, pieces = FlowRecorder(fps=16), FlowRecorder(fps=16)
    whole.append(video)
    for piece in video.split([1, 5, 2, 9, 6], dim=1):
        pieces.append(piece)
    assert torch.equal(whole.curves().speed, pieces.curves().speed)
    assert whole.curves().speed.shape == (2, 11)


def test_without_opencv_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install 'lightning-adastate\[metrics\]"):
        DynamicDegree()


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="`flow` must be dis or farneback, got 'raft'"):
        optical_flow("raft")
    with pytest.raises(ValueError, match="`fps` must be positive, got 0"):
        FlowRecorder(fps=0)
    with pytest.raises(ValueError, match="8 x 8 pixels or more, got 4 x 16"):
        FlowRecorder().append(torch.rand(1, 4, 3, 4, 16))
