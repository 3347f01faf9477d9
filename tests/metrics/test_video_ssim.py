"""SSIM to the first frame and across chunk borders: by hand, against a formula in loops, and piece by piece."""

import math

import numpy as np
import pytest
import torch
from toy_videos import pan, still, views

from lightning_adastate.metrics import SSIMRecorder, VideoSSIM
from lightning_adastate.metrics.video_consistency import Chunks
from lightning_adastate.metrics.video_ssim import SSIM_SIDE, frame_ssim


def scores_of(video, **options):
    metric = VideoSSIM(**options)
    metric.update(video)
    return {name: value.item() for name, value in metric.compute().items()}


def naive_ssim(one, other):
    """Wang et al. (2004) in float64 by loops over all windows, borders reflected; pictures [H, W]."""
    place = torch.arange(11, dtype=torch.float64) - 5
    line = (-place.square() / (2 * 1.5**2)).exp()
    kernel = line[:, None] * line / line.sum() ** 2
    values = []
    one, other = (torch.from_numpy(np.pad(p.double(), 5, mode="reflect")) for p in (one, other))
    for y in range(one.shape[0] - 10):
        for x in range(one.shape[1] - 10):
            a, b = (p[y : y + 11, x : x + 11] for p in (one, other))
            ma, mb = (kernel * a).sum(), (kernel * b).sum()
            va, vb = (kernel * a * a).sum() - ma**2, (kernel * b * b).sum() - mb**2
            cov = (kernel * a * b).sum() - ma * mb
            top = (2 * ma * mb + 0.01**2) * (2 * cov + 0.03**2)
            values.append(top / ((ma**2 + mb**2 + 0.01**2) * (va + vb + 0.03**2)))
    return torch.stack(values).mean()


def test_it_is_the_ssim_of_the_paper():
    one, other = torch.rand(2, 14, 13)
    found = frame_ssim(one[None], other[None])
    torch.testing.assert_close(found.double(), naive_ssim(one, other)[None], atol=1e-4, rtol=0)


def test_a_still_video_keeps_all_of_its_structure():
    found = scores_of(still(20), chunk_frames=4)
    assert all(value == pytest.approx(1.0, abs=1e-5) for value in found.values())


def test_a_jump_at_a_chunk_border_shows_there_and_not_inside():
    places = [(0, t + 5 * (t // 6)) for t in range(24)]
    found = scores_of(views(places, blur=9), chunk_frames=6)
    assert found["ssim_seam"] < found["ssim_inside"] - 0.3
    elsewhere = scores_of(views(places, blur=9), chunk_frames=5)
    assert elsewhere["ssim_seam"] > found["ssim_seam"] + 0.2, "the borders are not there"
    smooth = scores_of(pan(24, blur=9), chunk_frames=6)
    assert smooth["ssim_seam"] == pytest.approx(smooth["ssim_inside"], abs=0.05)


def test_a_shorter_first_chunk_moves_the_borders():
    places = [(0, 5 * ((t + 2) // 6)) for t in range(24)]
    found = scores_of(views(places, blur=9), chunk_frames=6, first_chunk_frames=4)
    assert found["ssim_seam"] < 0.7
    assert found["ssim_inside"] == pytest.approx(1.0, abs=1e-5)


def test_the_first_frame_is_compared_with_the_last_third():
    """By hand: a scene that changes at frame 12 of 24 is the first frame's no more at 16, the last that counts."""
    video = torch.cat([still(12), still(12, seed=1)], dim=1)
    curves_first = SSIMRecorder()
    curves_first.append(video)
    first = curves_first.curves().first[0]
    assert first.shape == (2,), "frames 8 and 16"
    assert first[0].item() == pytest.approx(1.0, abs=1e-5)
    assert first[1] < 0.5
    assert scores_of(video)["ssim_first"] == pytest.approx(first[1].item())


def test_pieces_give_what_the_whole_gives():
    video = pan(23)
    whole, pieces = SSIMRecorder(Chunks(4, 3)), SSIMRecorder(Chunks(4, 3))
    whole.append(video)
    for piece in video.split([1, 5, 2, 9, 6], dim=1):
        pieces.append(piece)
    for one, other in zip(whole.curves(), pieces.curves(), strict=True):
        assert torch.equal(one, other)
    assert [curve.shape[1] for curve in whole.curves()] == [2, 5, 5]


def test_what_cannot_be_measured_is_nan():
    assert all(map(math.isnan, scores_of(torch.rand(1, 20, 3, 8, 16), chunk_frames=4).values()))
    short = scores_of(still(8))
    assert all(map(math.isnan, short.values())), "no eighth frame, no chunks"


def test_large_pictures_are_averaged_down():
    side = 2 * SSIM_SIDE
    video = still(9, size=(side, side)) * 0.5
    video[:, 8] += 0.2 * (
        torch.arange(side) % 2
    )  # a pattern of single pixels, grey at half the size
    video[:, 8] -= 0.1
    assert scores_of(video)["ssim_first"] > 0.99


@pytest.mark.parametrize(
    ("options", "message"),
    [({"chunk_frames": 1}, "got 1 and 1"), ({"first_chunk_frames": 9}, "needs `chunk_frames`")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VideoSSIM(**options)
