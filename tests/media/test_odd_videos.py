"""What users have is read, or refused in a sentence that names the file."""

from fractions import Fraction

import pytest
import torch
from odd_videos import numbers, patched, write

from lightning_adastate.media.reading import probe_video, read_video
from lightning_adastate.media.video import VideoWriter, read_comment, write_video

MILLISECONDS = [0, 50, 100, 400, 450, 1000, 1040, 1080, 1500, 1550, 1600, 2000]


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("a.mp4", {"pix_fmt": "yuv444p", "size": (35, 47)}, (35, 47)),
        ("a.mp4", {"pix_fmt": "yuv420p10le"}, (36, 48)),
        ("a.mov", {"codec": "png", "pix_fmt": "rgba"}, (36, 48)),
        ("a.avi", {"codec": "mpeg4"}, (36, 48)),
        ("a.webm", {"codec": "libvpx-vp9"}, (36, 48)),
        ("a.mkv", {"times": MILLISECONDS}, (36, 48)),
    ],
    ids=["odd", "10-bit", "alpha", "avi", "vp9", "variable rate"],
)
def test_every_frame_is_read_in_order(tmp_path, name, options, size):
    path = write(tmp_path / name, **options)
    info = probe_video(path)
    assert (info.num_frames, info.height, info.width, info.fps) == (12, *size, 8)
    assert numbers(read_video(path)) == list(range(12))
    assert numbers(read_video(path, 5, 2)) == [5, 6] or "times" in options


def test_a_grey_video_has_three_equal_colours(tmp_path):
    video = read_video(write(tmp_path / "a.mp4", pix_fmt="gray"))
    assert torch.equal(video[:, 0], video[:, 1])
    assert video[0, 0, 20].float().diff().mean() > 2


@pytest.mark.parametrize(("turned", "rises"), [(90, False), (-90, True)])
def test_a_turned_video_is_read_as_it_is_shown(tmp_path, turned, rises):
    path = write(tmp_path / "a.mp4", turned=turned)
    info = probe_video(path)
    assert (info.height, info.width) == (48, 36)
    column = read_video(path)[0, 0, :, 15].float()
    assert bool((column[-1] > column[0]) == rises)
    assert read_video(path, size=(20, 18)).shape == (12, 3, 20, 18)


def test_pictures_are_scaled_by_their_shorter_side_and_cut_in_the_centre(tmp_path):
    path = write(tmp_path / "a.mp4")  # columns rise from 40 to 200 over 48 pixels
    row = read_video(path, size=(18, 18))[0, 0, 10].float()
    assert row.shape == (18,)
    assert 55 < row[0] < 65  # 4 of 24 columns are cut off on the left: 40 + 160 / 8
    assert 170 < row[-1] < 182
    tall = read_video(path, size=(24, 8))[0, 0, 12].float()
    assert 95 < tall[0] < 110
    assert 130 < tall[-1] < 145


def test_a_video_at_another_rate_has_the_frames_nearest_in_time(tmp_path):
    even, uneven = write(tmp_path / "a.mp4"), write(tmp_path / "b.mkv", times=MILLISECONDS)
    assert numbers(read_video(even, fps=Fraction(4))) == [0, 2, 4, 6, 8, 10]
    assert numbers(read_video(even, 2, 3, fps=Fraction(3))) == [5, 8, 11]  # 0.67, 1.0, 1.33 s
    assert numbers(read_video(uneven, 0, 9, fps=Fraction(4))) == [0, 2, 4, 5, 5, 7, 8, 10, 11]
    assert probe_video(even).frames_at(Fraction(3)) == 4
    assert torch.equal(read_video(even, fps=Fraction(8)), read_video(even))


def refused(path):
    with pytest.raises(ValueError, match="\\.") as error:
        probe_video(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_cut_anywhere_behind_its_index_is_found_out_without_reading_it(tmp_path):
    path = write(tmp_path / "a.mp4", 40)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    cut = tmp_path / "cut.mp4"
    for share in (0.55, 0.7, 0.9, 0.999):
        cut.write_bytes(data[: int(len(data) * share)])
        message = refused(cut)
        assert "cut short" in message or "broken" in message, message
    cut.write_bytes(data)
    assert probe_video(cut).num_frames == 40


def test_headers_that_lie_are_refused(tmp_path):
    fast = patched(write(tmp_path / "fast.mp4"), b"mdhd", 12, 0x7FFFFFFF)
    assert "frames per second, the most is 1000" in refused(fast)
    huge = write(tmp_path / "huge.mov", codec="qtrle", pix_fmt="rgb24")
    for offset in (24, 26):
        patched(huge, b"rle ", offset, 60000, ">H")
    assert "expected 1 to" in refused(huge)


def test_a_play_list_in_a_videos_clothes_opens_nothing(tmp_path):
    other = tmp_path / "other.ts"
    write(other, codec="mpeg2video", rate=25)
    text = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.m3u8").write_text(text)
    assert "cannot be read" in refused(tmp_path / "a.m3u8")


def test_a_relative_path_is_the_readers_wherever_it_has_gone(tmp_path, monkeypatch):
    for name, count in (("a", 5), ("b", 9)):
        write(tmp_path / name / "same.mp4", count)
        monkeypatch.chdir(tmp_path / name)
        assert probe_video("same.mp4").num_frames == count


def test_a_comment_stands_in_the_file(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", comment='{"prompt": "what"}') as writer:
        writer.append(torch.zeros(2, 3, 16, 16))
    assert read_comment(tmp_path / "a.mp4") == '{"prompt": "what"}'
    write_video(tmp_path / "b.mp4", torch.zeros(2, 3, 16, 16))
    assert read_comment(tmp_path / "b.mp4") == ""


def test_rates_and_sizes_that_no_video_can_have_are_refused_before_a_file_is_begun(tmp_path):
    with pytest.raises(ValueError, match=r"`fps` must be in \(0, 1000\].*got 1000000000000"):
        VideoWriter(tmp_path / "a.mp4", fps=10**12)
    writer = VideoWriter(tmp_path / "a.mp4", scale=100_000)
    with pytest.raises(ValueError, match="`upscale` must be 1024 or less"):
        writer.append(torch.zeros(1, 3, 8, 16))
    assert not (tmp_path / "a.mp4").exists()
