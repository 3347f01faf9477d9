"""Plots, side-by-side videos and key-frame sheets of evaluated videos: what stands where."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from lightning_adastate.evaluation.video_groups import VideoFile, find_groups
from lightning_adastate.evaluation.video_pictures import (
    BLOCK_FRAMES,
    key_frames,
    rows_of,
    write_key_frames,
    write_side_by_side,
)
from lightning_adastate.evaluation.video_plots import (
    curves_figure,
    differences_figure,
    motion_figure,
)
from lightning_adastate.evaluation.video_scores import Series
from lightning_adastate.evaluation.videos import evaluate
from lightning_adastate.media.pictures import LABEL_HEIGHT, clock_text
from lightning_adastate.media.reading import probe_video, read_video
from lightning_adastate.media.video import write_video


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def levels(frames, first=0, size=(16, 24)):
    """Grey frames whose level says which frame of the video they are."""
    level = torch.arange(first, first + frames).byte()
    return level[:, None, None, None].expand(-1, 3, *size)


def write(name, video, **options):
    Path(name).parent.mkdir(exist_ok=True, parents=True)
    write_video(name, video, quality="lossless", **options)


def file(name):
    return VideoFile(Path(name), probe_video(name))


def names(rows):
    return [[str(one.path) for one in row.files] for row in rows]


def test_groups_stand_side_by_side_with_videos_of_one_name():
    for name in ("a/1.mp4", "a/2.mp4", "b/2.mp4", "b/3.mp4"):
        write(name, levels(4))
    (row,) = rows_of(find_groups([Path("a"), Path("b")]))
    assert (row.name, row.labels) == ("2.mp4", ["a", "b"])
    assert names([row]) == [["a/2.mp4", "b/2.mp4"]]
    Path("b/2.mp4").unlink()
    (row,) = rows_of(find_groups([Path("a"), Path("b")]))
    assert row.labels == ["a: 1.mp4", "b: 3.mp4"], "no name is shared"
    only = rows_of(find_groups([Path("a")]))
    assert (only[0].labels, len(only)) == (["1.mp4", "2.mp4"], 1)


def test_a_shorter_video_stays_at_its_last_frame_and_another_size_is_fitted():
    write("a/x.mp4", levels(BLOCK_FRAMES + 10))
    write("b/x.mp4", levels(BLOCK_FRAMES, first=100, size=(8, 24)))
    write_side_by_side(Path("s.mp4"), rows_of(find_groups([Path("a"), Path("b")])))
    shown = read_video("s.mp4")
    assert len(shown) == 2 * BLOCK_FRAMES
    scale = 12  # 16 rows are enlarged to 192
    middle = 2 * LABEL_HEIGHT + scale * 8
    left, right = scale * 12, scale * 24 + 8 + scale * 12
    for t in (0, 5, BLOCK_FRAMES, BLOCK_FRAMES + 9, 2 * BLOCK_FRAMES - 1):
        picture = shown[t, 0]
        assert abs(int(picture[middle, left]) - min(t, BLOCK_FRAMES + 9)) <= 3
        assert abs(int(picture[middle, right]) - 100 - min(t, BLOCK_FRAMES - 1)) <= 3
    edge = 2 * LABEL_HEIGHT + scale * 2
    assert shown[0, 0, edge, right] < 10, "half as high: black above and below"
    assert shown[0, :, :LABEL_HEIGHT].min() < 120, "its name is above"


def test_a_video_of_half_the_rate_is_shown_at_the_first_ones():
    write("a/x.mp4", levels(24), fps=16)
    write("b/x.mp4", levels(12, first=100), fps=8)
    write_side_by_side(Path("s.mp4"), rows_of(find_groups([Path("a"), Path("b")])))
    shown, middle = read_video("s.mp4"), 2 * LABEL_HEIGHT + 96
    right = 12 * 24 + 8 + 144
    assert probe_video("s.mp4").fps == 16
    second = [int(shown[t, 0, middle, right]) - 100 for t in (0, 4, 8, 16)]
    assert all(abs(have - want) <= 3 for have, want in zip(second, (0, 2, 4, 8), strict=True))


def test_large_videos_are_averaged_down_to_a_screen():
    for name in ("a/x.mp4", "b/x.mp4", "c/x.mp4"):
        write(name, levels(4, size=(480, 832)))
    write_side_by_side(Path("s.mp4"), rows_of(find_groups([Path(n) for n in "abc"])))
    assert 1800 < probe_video("s.mp4").width <= 1940


def test_a_key_frame_is_there_every_so_many_seconds_and_at_the_end():
    write("long.mp4", levels(60), fps=1)
    found = key_frames(file("long.mp4"), 12.0)
    assert [one.seconds for one in found] == [0, 12, 24, 36, 48, 59]
    assert [int(one.picture_CHW[0, 0, 0]) for one in found] == [0, 12, 24, 36, 48, 59]
    assert [one.seconds for one in key_frames(file("long.mp4"), 30.0)] == [0, 30, 59]


def test_a_short_video_has_eight_key_frames():
    write("short.mp4", levels(36), fps=Fraction(16))
    found = key_frames(file("short.mp4"), 12.0)
    assert len(found) == 8
    assert int(found[0].picture_CHW[0, 0, 0]) == 0
    assert int(found[-1].picture_CHW[0, 0, 0]) == 35
    write("four.mp4", levels(4), fps=16)
    for every in (12.0, 0.0001):
        found = key_frames(file("four.mp4"), every)
        assert [int(one.picture_CHW[0, 0, 0]) for one in found] == [0, 1, 2, 3]


def test_key_frames_of_a_long_video_go_on_in_the_next_line():
    write("g/long.mp4", levels(110), fps=1)
    rows = rows_of(find_groups([Path("g")]))
    write_key_frames(Path("one.png"), rows, sheet_seconds=20)
    write_key_frames(Path("two.png"), rows, sheet_seconds=7)
    one, two = imread("one.png"), imread("two.png")
    assert two.shape[0] > 1.7 * one.shape[0], "16 frames are two lines of ten"
    assert two.shape[1] > one.shape[1]
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`sheet_seconds` must be positive"):
            write_key_frames(Path("never.png"), rows, sheet_seconds=wrong)
    assert not Path("never.png").exists()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (2.44, "2.4 s"), (75, "1:15"), (3725, "1:02:05")]
)
def test_times_read_as_on_a_clock(seconds, text):
    assert clock_text(seconds) == text


# -- plots ------------------------------------------------------------------------------------------


def scored(frames=10):
    for seed, folder in enumerate(("a", "b")):
        for n in range(3):
            video = torch.rand(frames, 3, 16, 24, generator=torch.Generator().manual_seed(n))
            write(f"{folder}/{n}.mp4", video * (1 - 0.3 * seed))
    return evaluate(["a", "b"])


def test_plots_have_a_line_a_dot_and_an_interval_for_each_group():
    found = scored()
    curves = curves_figure(found.groups, found.series)
    luma = curves.axes[4].lines
    assert [line.get_label() for line in curves.legends[0].legend_handles] == [
        "a (3 videos)",
        "b (3 videos)",
    ]
    for group, line in zip(found.series, luma, strict=True):
        mean = torch.stack([video["luma"].value for video in group]).mean(0)
        torch.testing.assert_close(torch.tensor(line.get_ydata()).float(), mean)
        torch.testing.assert_close(torch.tensor(line.get_xdata()).float(), torch.arange(10) / 16)
    dots = motion_figure(found.groups, found.scores).axes[0].collections
    assert [len(each.get_offsets()) for each in dots] == [3, 1, 3, 1]
    labels = [
        text.get_text()
        for text in differences_figure(found.scores, found.differences).axes[0].get_yticklabels()
    ]
    assert "residual" in labels
    assert "boundary_jump" not in labels, "no chunks, no difference"
    written = found.write_plots(Path("out"))
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(written)


def test_videos_of_other_rates_and_lengths_are_averaged_at_the_same_time():
    at = torch.arange(9.0)
    slow = {"luma": Series(at, at)}
    fast = {"luma": Series(torch.arange(33) / 8, torch.arange(33) / 8)}
    from matplotlib.figure import Figure

    from lightning_adastate.evaluation.video_plots import _draw_mean

    axes = Figure().subplots()
    _draw_mean(axes, [slow["luma"], fast["luma"]], 0)
    line = axes.lines[0]
    torch.testing.assert_close(
        torch.tensor(line.get_xdata()).float(), torch.tensor(line.get_ydata()).float()
    )
    assert line.get_xdata()[-1] == 8.0
