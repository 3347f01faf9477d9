"""What is measured per frame and per step, against hand-made videos and naive float64 loops."""

import math

import pytest
import torch
from toy_videos import pan, still, views

from lightning_adastate.metrics import CurveRecorder, VideoMetrics, video_curves
from lightning_adastate.metrics.video_shift import global_shift
from lightning_adastate.worlds import PanWorld


@pytest.mark.parametrize("size", [(21, 33), (16, 16), (8, 17), (31, 9)])
@pytest.mark.parametrize(("down", "right"), [(0, 1), (1, -2), (-2, 3), (0, 0), (0, -3)])
def test_an_exact_pan_is_read_to_the_pixel(size, down, right):
    places = [(6 + down * t, 6 + right * t) for t in range(3)]
    way = video_curves(views([*places, places[-1]], size)).way
    # the map wanders out of the picture the other way
    expected = torch.tensor([-down, -right]).float().expand(2, 2)
    torch.testing.assert_close(way[0, :2], expected, atol=1e-3, rtol=0)
    assert way[0, 2].tolist() == [0.0, 0.0]


def test_a_pan_leaves_no_residual_and_noise_does_not_shift():
    moving = video_curves(pan())
    assert moving.residual.max() < 1e-4
    assert moving.difference.min() > 0.01
    noise = video_curves(torch.rand(2, 9, 3, 21, 33))
    assert noise.way.abs().max() < 0.5
    assert noise.residual.min() > 0.15


def waves(shift):
    """A smooth picture ``[1, H, W]`` moved to the right by any number of pixels."""
    rows, columns = torch.arange(21.0)[:, None], torch.arange(33.0) - shift
    light = (0.31 * columns + 0.2 * rows).sin() + (0.23 * columns).cos()
    return 0.5 + 0.2 * (light + (0.35 * rows - 0.1 * columns).sin())[None]


@pytest.mark.parametrize("way", [0.5, -0.3, 1.25, 0.0])
def test_a_shift_of_a_fraction_is_read_from_the_gradients(way):
    before, after = waves(0.0), waves(way)
    found = global_shift(before, after)
    torch.testing.assert_close(found.way_P2[0], torch.tensor([0.0, way]), atol=0.02, rtol=0)
    assert found.residual_P[0] <= 0.1 * (before - after).abs().mean()


def test_an_object_does_not_pull_the_picture_along():
    before, after = waves(0.0), waves(0.4)
    before[:, 5:11, 10:16] = 1.0
    after[:, 5:11, 8:14] = 1.0
    way = global_shift(before, after).way_P2[0]
    torch.testing.assert_close(way, torch.tensor([0.0, 0.4]), atol=0.1, rtol=0)


def test_the_camera_of_the_toy_world_is_followed_behind_its_hero():
    episodes = PanWorld().episodes(8, 60, seed=1)
    way = video_curves(episodes.video_BFCHW).way[..., 1]
    truth = episodes.truth.position_BF.diff(dim=1).float()
    assert torch.corrcoef(torch.stack([-way.flatten(), truth.flatten()]))[0, 1] > 0.8
    torch.testing.assert_close(-way.mean(1), truth.mean(1), atol=0.1, rtol=0)


def test_what_moves_on_its_own_is_residual():
    video = pan().clone()
    for t in range(12):
        video[:, t, :, 5:9, 2 * t : 2 * t + 4] += 0.3
    found = video_curves(video)
    torch.testing.assert_close(found.way[0].mean(0), torch.tensor([-1.0, -2.0]), atol=0.1, rtol=0)
    assert found.residual.min() > 0.01


def test_large_pictures_are_averaged_down_and_shifts_scaled_back():
    found = video_curves(pan(4, down=4, right=8, blur=15, size=(480, 500)).flip(1)).way
    torch.testing.assert_close(found[0], torch.tensor([4.0, 8.0]).expand(3, 2), atol=1e-2, rtol=0)


def naive_looks(frame):
    """One frame's looks in float64 by loops, ``frame`` [3, H, W]."""
    height, width = frame.shape[1:]
    light = [[0.0] * width for _ in range(height)]
    saturation, rg, yb, clipped = [], [], [], []
    for y in range(height):
        for x in range(width):
            r, g, b = (float(v) for v in frame[:, y, x])
            light[y][x] = 0.299 * r + 0.587 * g + 0.114 * b
            most = max(r, g, b)
            saturation.append(0.0 if most == 0 else (most - min(r, g, b)) / most)
            rg.append(r - g)
            yb.append((r + g) / 2 - b)
            clipped.append(not 2.5 / 255 < light[y][x] < 1 - 2.5 / 255)

    def mean(values):
        return sum(values) / len(values)

    def std(values):
        return math.sqrt(mean([(v - mean(values)) ** 2 for v in values]))

    flat = [value for row in light for value in row]
    laplacian = [
        light[y - 1][x] + light[y + 1][x] + light[y][x - 1] + light[y][x + 1] - 4 * light[y][x]
        for y in range(1, height - 1)
        for x in range(1, width - 1)
    ]
    colorfulness = math.hypot(std(rg), std(yb)) + 0.3 * math.hypot(mean(rg), mean(yb))
    return [
        mean(flat),
        std(flat),
        mean(saturation),
        colorfulness,
        std(laplacian) ** 2,
        mean([float(c) for c in clipped]),
    ]


def test_the_looks_of_a_frame_are_those_of_their_formulas():
    video = (torch.rand(2, 4, 3, 5, 7) * 255).round().byte()
    video[0, 0, :, :3] = 0
    video[1, 2, :, :, 4:] = 255
    looks = torch.stack(video_curves(video).looks, dim=-1)
    for b in range(2):
        for f in range(4):
            expected = naive_looks(video[b, f].double() / 255)
            assert looks[b, f].tolist() == pytest.approx(expected, abs=2e-6)


def naive_likeness(one, other):
    """Normalised cross-correlation of two small frames, each colour's mean taken out, in float64."""
    one, other = (x.double() - x.double().mean((1, 2), keepdim=True) for x in (one, other))
    return float((one * other).sum() / (one.square().sum() * other.square().sum()).sqrt())


def test_small_copies_multiply_to_normalised_cross_correlation():
    video = (torch.rand(1, 5, 3, 9, 7) * 255).round() / 255
    small = video_curves(video).small[0]
    for f in range(5):
        expected = [naive_likeness(video[0, f], video[0, g]) for g in range(5)]
        assert (small @ small[f]).tolist() == pytest.approx(expected, abs=1e-5)


def test_flat_frames_are_alike_and_like_nothing_else():
    video = torch.rand(1, 4, 3, 6, 5)
    video[:, 1], video[:, 2] = 0.2, 0.7
    small = video_curves(video).small[0]
    like = small @ small.T
    assert like[1, 2] == 1.0
    assert like[0, 1] == like[3, 2] == 0.0


@pytest.mark.parametrize("sizes", [[1, 1, 10], [5, 7], [3, 0, 9]])
def test_pieces_measure_what_the_whole_video_does(sizes, monkeypatch):
    video = torch.cat([pan(seed=1), still(seed=2)])
    whole = video_curves(video)
    monkeypatch.setattr("lightning_adastate.metrics.video_recorder.PIECE_PIXELS", 2 * 21 * 33 * 4)
    recorder = CurveRecorder()
    for piece in video.split(sizes, dim=1):
        recorder.append(piece)
    pieces = recorder.curves()
    for ours, theirs in zip([*pieces.looks, *pieces[1:]], [*whole.looks, *whole[1:]], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_bytes_and_floats_are_the_same_video_and_nothing_is_kept_of_the_graph():
    video = (torch.rand(1, 5, 3, 6, 5) * 255).round()
    floats = (video / 255).requires_grad_()
    ours, theirs = video_curves(video.byte()), video_curves(floats)
    assert torch.equal(ours.difference, theirs.difference)
    assert not theirs.difference.requires_grad


def test_only_the_last_frame_is_kept():
    recorder = CurveRecorder()
    video = torch.rand(1, 8, 3, 64, 64)
    recorder.append(video)
    assert recorder._last.untyped_storage().nbytes() == 3 * 64 * 64 * 4
    assert recorder._kept_BFV.shape == (1, 256, 6 + 4 + 3 * 32 * 32 + 1)
    for _ in range(40):
        recorder.append(video)
    assert recorder._kept_BFV.shape[1] == 528, "doubled when 264 frames had come"
    small = recorder.curves().small
    assert small.shape[1] == 328
    assert torch.equal(small, small[:, :8].repeat(1, 41, 1))


def test_what_is_no_video_is_refused():
    recorder = CurveRecorder()
    with pytest.raises(
        ValueError, match=r"expected videos \[B, F, 3, H, W\], got shape \(4, 3, 5, 5\)"
    ):
        recorder.append(torch.zeros(4, 3, 5, 5))
    recorder.append(torch.zeros(1, 3, 3, 5, 5))
    with pytest.raises(
        ValueError, match=r"expected 1 videos of \(5, 5\) as before, got 1 of \(5, 6\)"
    ):
        recorder.append(torch.zeros(1, 3, 3, 5, 6))
    with pytest.raises(ValueError, match="expected videos of 4 frames or more, got 3"):
        recorder.curves()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (3, 3)])
def test_the_smallest_pictures_have_finite_curves(size):
    scores = VideoMetrics().per_video(video_curves(torch.rand(2, 6, 3, *size)))
    assert torch.stack([scores["shift"], scores["residual"], scores["flicker"]]).isfinite().all()
