import subprocess
import sys

import av
import numpy as np
import pytest
import torch

from lightning_adastate.media.reading import probe_video, read_video
from lightning_adastate.media.video import (
    VideoWriter,
    to_uint8,
    upscale,
    watchable_scale,
    write_video,
)


def numbered(frames, height=8, width=16):
    """Frame i is a flat picture of value 10 i."""
    return (10 * torch.arange(frames, dtype=torch.uint8))[:, None, None, None].expand(
        frames, 3, height, width
    )


def test_lossless_gives_back_every_bit_even_of_noise(tmp_path):
    video = torch.rand(9, 3, 7, 13)
    write_video(tmp_path / "a.mp4", video, quality="lossless")
    assert torch.equal(read_video(tmp_path / "a.mp4"), to_uint8(video))


@pytest.mark.parametrize("start", [0, 1, 5, 17, 20])
def test_a_clip_holds_the_frames_that_were_asked_for(tmp_path, start):
    with VideoWriter(tmp_path / "a.mp4", fps=8, quality="lossless", chunk_frames=6) as writer:
        writer.append(numbered(25))
    clip = read_video(tmp_path / "a.mp4", start, 4)
    assert clip[:, 0, 0, 0].tolist() == [10 * (start + i) for i in range(4)]


def test_a_preview_of_an_odd_size_is_padded_and_close_to_the_truth(tmp_path):
    video = torch.rand(5, 3, 1, 1).expand(5, 3, 7, 9)
    write_video(tmp_path / "a.mp4", video, scale=3)
    info = probe_video(tmp_path / "a.mp4")
    assert info[:3] == (5, 22, 28)
    shown = read_video(tmp_path / "a.mp4")[:, :, :21, :27].float() / 255
    assert (shown - upscale(video, 3)).abs().max() < 0.06


def test_what_was_appended_can_be_read_while_the_file_grows(tmp_path):
    path = tmp_path / "new" / "a.mp4"
    counts = []
    with VideoWriter(path, chunk_frames=3) as writer:
        assert not path.exists()
        for i in range(6):
            writer.append(numbered(18)[3 * i : 3 * i + 3])
            counts.append(len(read_video(path)))
    assert all(3 * i <= count for i, count in enumerate(counts)), counts
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 18  # an ordinary mp4 after closing
    assert read_video(path)[:, 0, 0, 0].float().diff().mean().round() == 10


def test_a_writer_without_frames_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, numbered(3))
    with VideoWriter(path):
        pass
    assert probe_video(path).num_frames == 3


def test_an_error_while_writing_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path) as writer:
        writer.append(numbered(4))
        with pytest.raises(ValueError, match="expected frames"):
            writer.append(numbered(4, height=10))
    assert len(read_video(path)) == 4


def test_a_file_cut_anywhere_gives_an_error_and_never_kills_the_process(tmp_path):
    write_video(tmp_path / "a.mp4", torch.rand(8, 3, 16, 16), quality="lossless")
    with VideoWriter(tmp_path / "b.mp4") as writer:
        writer.append(numbered(3))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lightning_adastate.media.reading import probe_video, read_video\n"
        "for name in sys.argv[1:]:\n"
        "    data = Path(name).read_bytes()\n"
        "    refused = 0\n"
        "    for size in range(0, len(data), max(1, len(data) // 40)):\n"
        "        cut = Path(name + '.cut.mp4')\n"
        "        cut.write_bytes(data[:size])\n"
        "        for read in (probe_video, read_video):\n"
        "            try:\n"
        "                read(cut)\n"
        "            except ValueError as error:\n"
        "                assert str(cut) in str(error), error\n"
        "                refused += 1\n"
        "    assert refused > 20, refused\n"
    )
    files = [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def audio_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_file_without_video_is_refused_by_name(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 20)
    audio_only(tmp_path / "audio.mp4")
    for name, message in {
        "missing.mp4": "does not exist",
        "empty.mp4": "is empty",
        "text.mp4": "cannot be read",
        "audio.mp4": "holds no video stream",
    }.items():
        for read in (probe_video, read_video):
            with pytest.raises(ValueError, match=message) as error:
                read(tmp_path / name)
            assert name in str(error.value)
            assert "\n" not in str(error.value)


def test_a_clip_beyond_the_end_is_refused(tmp_path):
    write_video(tmp_path / "a.mp4", numbered(6))
    with pytest.raises(ValueError, match="wanted 4 frames from frame 3, got 3"):
        read_video(tmp_path / "a.mp4", 3, 4)
    with pytest.raises(ValueError, match="start >= 0"):
        read_video(tmp_path / "a.mp4", -1, 4)


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`fps` must be positive, got 0"):
        VideoWriter(tmp_path / "a.mp4", fps=0)
    with pytest.raises(ValueError, match="cannot be written"):
        VideoWriter(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        VideoWriter(tmp_path / "file" / "a.mp4")
    with VideoWriter(tmp_path / "a.mp4") as writer:
        with pytest.raises(ValueError, match=r"expected frames \[F, 3, H, W\]"):
            writer.append(torch.zeros(3, 8, 8))
        writer.append(torch.zeros(1, 3, 8, 8))
        with pytest.raises(ValueError, match=r"expected frames of \(8, 8\), got \(8, 10\)"):
            writer.append(torch.zeros(1, 3, 8, 10))


def test_upscaling_repeats_pixels_and_makes_a_tiny_world_watchable():
    video = torch.arange(4.0).view(1, 1, 2, 2)
    assert upscale(video, 2)[0, 0].tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    assert watchable_scale(8) * 8 >= 192
    assert watchable_scale(480) == 1
