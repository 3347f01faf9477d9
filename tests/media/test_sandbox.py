"""A video may take its decoder down, never the one who asked; and no more than its limits."""

import os
import signal

import pytest
from odd_videos import numbers, write

from lightning_adastate.media import sandbox
from lightning_adastate.media.reading import probe_video, read_pieces, read_video
from lightning_adastate.media.sandbox import DecodingLimits


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write(tmp_path_factory.mktemp("videos") / "a.mp4", 40, size=(240, 320))


def test_one_process_reads_many_files(video):
    before = []
    for _ in range(3):
        probe_video(video)
        read_video(video, 3, 2)
        before.append([each.process.pid for each in sandbox._pool.idle])
    assert before[0] == before[1] == before[2]


def test_a_decoder_that_dies_is_one_sentence_and_the_next_file_is_read(video):
    pieces = read_pieces(video, 4)
    next(pieces)
    (taken,) = [pid for pid in children() if pid not in idle()]
    os.kill(taken, signal.SIGSEGV)
    with pytest.raises(ValueError, match="a.mp4' cannot be decoded: the decoder died of SIGSEGV"):
        list(pieces)
    assert numbers(read_video(video, 0, 3)) == [0, 1, 2]
    assert taken not in children()


def test_a_decoder_that_died_while_it_waited_is_replaced(video):
    probe_video(video)
    for decoder in sandbox._pool.idle:
        decoder.process.kill()
        decoder.process.wait()
    assert probe_video(video).num_frames == 40


def test_pieces_that_nobody_wants_leave_no_process_behind(video):
    probe_video(video)
    waiting = idle()
    pieces = read_pieces(video, 4)
    next(pieces)
    pieces.close()
    assert numbers(read_video(video, 0, 2)) == [0, 1]
    assert children() == idle()
    assert len(idle()) <= max(1, len(waiting))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (DecodingLimits(seconds=0.0), "took more than 0 seconds"),
        (DecodingLimits(max_pixels=100 * 100), "has pictures of 240 x 320; expected 1 to 10000"),
        (DecodingLimits(max_fps=4.0), "8 frames per second, the most is 4"),
    ],
    ids=["time", "pixels", "rate"],
)
def test_limits_are_kept(video, limits, message):
    with pytest.raises(ValueError, match=message) as error:
        probe_video(video, limits)
    assert str(video) in str(error.value)
    assert probe_video(video).num_frames == 40


def test_memory_is_limited(tmp_path):
    path = write(tmp_path / "a.mp4", 2, size=(4000, 4000), options={"preset": "ultrafast"})
    limits = DecodingLimits(memory_bytes=300 << 20)
    with pytest.raises(ValueError, match="takes more than 300 MiB|cannot be decoded") as error:
        read_video(path, limits=limits)
    assert str(path) in str(error.value)


@pytest.mark.slow
def test_processor_time_is_limited(tmp_path):
    path = write(tmp_path / "a.mp4", 400, size=(720, 1280), options={"preset": "ultrafast"})
    limits = DecodingLimits(cpu_seconds=0)
    with pytest.raises(ValueError, match="more than 0 seconds of processor time"):
        read_video(path, limits=limits, size=(1000, 3000))


def idle():
    """The processes that wait."""
    return sorted(each.process.pid for each in sandbox._pool.idle)


def children():
    """The decoders that run."""
    me, found = os.getpid(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/cmdline") as command:
                parent, line = int(stat.read().rpartition(")")[2].split()[1]), command.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == me and "decoder.py" in line:
            found.append(int(pid))
    return sorted(found)
