"""An output that was stopped, however it was, becomes that of a run that never was."""

import contextlib
import copy
import functools
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file

from lightning_adastate import load_module
from lightning_adastate.__main__ import main
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.generation.clock import StreamClock, seconds_of
from lightning_adastate.generation.generate import Generation, generate
from lightning_adastate.generation.journal import Journal
from lightning_adastate.generation.saving import SavePolicy
from lightning_adastate.generation.timeline import Change
from lightning_adastate.media import VideoWriter, read_video
from lightning_adastate.media.latents import LatentsWriter
from lightning_adastate.recipes.errors import first_sentence
from lightning_adastate.schedules import FewStepSchedule

OVERRIDES = ("--model.anchor=EMAAnchor", "--model.anchor.decay=0.9")


class StoppedError(Exception):
    """What a test stops a stream with."""


class CountingCodec(PixelShuffleCodec):
    """A codec with a memory: how many chunks it has decoded shows in every pixel, and it can fail."""

    fails_at = None
    dies_at = None

    def decode(self, latents_BFCHW, state):
        count = state.get("count", torch.zeros(len(latents_BFCHW))) + 1
        if self.dies_at is not None and count[0] == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails_at is not None and count[0] == self.fails_at:
            raise StoppedError
        pixels = super().decode(latents_BFCHW, {})[0]
        return (pixels * 0.9 + 0.001 * count.view(-1, 1, 1, 1, 1)).clamp(0, 1), {"count": count}


@functools.cache
def module():
    made = load_module("toy/adastate", overrides=OVERRIDES)
    made.codec = CountingCodec(2)
    return made


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module().codec, "fails_at", None)
    return tmp_path


def run(name="a", prompts="drifting west", **options):
    names = {"output": f"{name}.mp4", "latents": f"{name}.safetensors"}
    asked = {"num_chunks": 8, "quality": "lossless", "state_every": 1, **names, **options}
    return generate(module(), Generation(prompts, **asked))


def made(name="a"):
    return load_file(f"{name}.safetensors")["latents"], read_video(f"{name}.mp4")


def times(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.pts * stream.time_base for frame in container.decode(stream)]


def stop_at(chunk, **options):
    module().codec.fails_at = chunk
    with pytest.raises(StoppedError):
        run(**options)
    module().codec.fails_at = None


def in_a_child(work):
    """Do something in a copy of this process; return the signal that ended it, or 0."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def files():
    return {path.name for path in Path().iterdir()}


@pytest.mark.parametrize(
    ("every", "decode"), [(1, "in_turn"), (3, "overlapped"), ("auto", "in_turn")]
)
def test_a_stopped_stream_ends_as_one_that_never_was(every, decode, capsys):
    assert run("whole", prompts="drifting west") == 0
    for chunk in (2, 5, 8):
        stop_at(chunk, state_every=every, decode=decode)
        said = f"stopped after chunk {chunk - 1} of 8; the same command goes on with chunk {chunk}"
        assert said in capsys.readouterr().err
    assert run(state_every=every, decode=decode) == 0
    for one, other in zip(made("a"), made("whole"), strict=True):
        assert torch.equal(one, other)
    assert times("a.mp4") == times("whole.mp4")
    assert files() == {f"{n}.{end}" for n in ("a", "whole") for end in ("mp4", "safetensors")}


def test_a_process_that_dies_goes_on_from_the_newest_state_whose_frames_are_in_the_file():
    """Nothing is closed: what counts is what the disk holds at that moment."""
    run("whole")
    for chunk in (5, 7):
        module().codec.dies_at = chunk
        assert in_a_child(run) == signal.SIGKILL
        module().codec.dies_at = None
        saved = Journal(Path("a.mp4"), {}).made().num_chunks
        assert saved == chunk - 2, (
            "the frames of the chunk before are in the file when its successor begins"
        )
        assert not Path("a.safetensors").exists(), "latents have their name when they are whole"
        assert len(read_video("a.mp4")) >= 3 * saved
    Path(".a.mp4.unfinished.1234.partial").touch()  # as if it died while it saved
    assert run() == 0
    for one, other in zip(made("a"), made("whole"), strict=True):
        assert torch.equal(one, other)
    assert files() == {f"{n}.{end}" for n in ("a", "whole") for end in ("mp4", "safetensors")}


# -- whose an output is -------------------------------------------------------------------------------


CHANGED = {
    "prompts": {"prompts": "drifting east"},
    "seed": {"seed": 1},
    "num_chunks": {"num_chunks": 9},
    "quality": {"quality": "preview", "upscale": 1},
    "fps": {"fps": 8},
    "timeline": {"timeline": [Change(3, prompt="drifting east")]},
    "latents": {"latents": None},
}


def test_an_unfinished_output_is_refused_with_other_settings_which_are_named():
    stop_at(3)
    before = {path: path.read_bytes() for path in Path().iterdir()}
    for name, changed in CHANGED.items():
        with pytest.raises(ValueError, match=rf"^'a.mp4' was begun with {name} .*, now it is"):
            run(**changed)
    weight = module().streamer.backbone.head.modulation
    before_it = weight.detach().clone()
    with torch.no_grad():
        weight += 1e-3
    with pytest.raises(
        ValueError, match=r"was begun with weights '\w{16}', now it is '\w{16}'; .*overwrite"
    ):
        run()
    with torch.no_grad():
        weight.copy_(before_it)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_finished_output_is_refused_and_overwrite_starts_anew():
    run(num_chunks=2)
    first = made()
    for name in ("a.mp4", "a.safetensors"):
        with pytest.raises(
            ValueError, match=f"'{name}' is there already; .*`--generation.overwrite`"
        ):
            run(num_chunks=2, seed=3)
        Path(name).rename("aside")
    Path("aside").rename("a.safetensors")
    stop_at(2, num_chunks=3, overwrite=True)
    assert run(num_chunks=2, seed=3, overwrite=True) == 0
    assert not torch.equal(made()[0], first[0])
    run("b", num_chunks=2, seed=3)
    assert torch.equal(made()[0], made("b")[0])


def test_an_output_without_a_name_takes_the_next_free_number_or_goes_on():
    options = {"output": "auto", "latents": None, "num_chunks": 3}
    run(**options)
    run(**options)
    assert sorted(os.listdir("outputs")) == ["generated.mp4", "generated_2.mp4"]
    stop_at(3, **options)
    run(seed=5, **options)  # another stream does not go on with it
    names = {f"generated{n}.mp4" for n in ("", "_2", "_3", "_4")}
    assert set(os.listdir("outputs")) == names | {"generated_3.mp4.unfinished"}
    run(**options)
    assert set(os.listdir("outputs")) == names
    assert all(len(read_video(f"outputs/{name}")) == 9 for name in names)


HOLDING = """
import sys
from pathlib import Path
from lightning_adastate.generation.lock import only_writer
with only_writer([Path("a.mp4")]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_one_is_gone():
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holding.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="another process is writing 'a.mp4'"):
        run(num_chunks=1)
    with pytest.raises(ValueError, match="another process is writing 'a.mp4'"):
        run(num_chunks=1, overwrite=True)
    holding.kill()
    holding.wait()
    assert files() == {".a.mp4.lock"}
    assert run(num_chunks=1) == 0
    assert files() == {"a.mp4", "a.safetensors"}


def test_a_stream_that_fails_in_its_first_chunk_leaves_nothing():
    stop_at(1, output="new/a.mp4", state_out="new/s.safetensors")
    assert files() == set()


def test_a_lost_or_shortened_video_is_no_beginning():
    stop_at(5)
    whole = Path("a.mp4").read_bytes()
    with VideoWriter("a.mp4", quality="lossless") as writer:
        writer.append(torch.zeros(3, 3, 8, 16))
    with pytest.raises(ValueError, match="'a.mp4' holds 3 of the 12 frames .*overwrite"):
        run()
    Path("a.mp4").unlink()
    with pytest.raises(ValueError, match="'a.mp4' cannot be continued: No such file"):
        run()
    Path("a.mp4").write_bytes(whole)
    assert run() == 0
    assert len(read_video("a.mp4")) == 24


def test_written_files_follow_the_umask():
    before = os.umask(0o027)
    try:
        stop_at(3, state_out="s.safetensors")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in Path().iterdir()}
    assert modes == dict.fromkeys(
        ["a.mp4", "a.mp4.unfinished", "a.safetensors", "s.safetensors"], 0o640
    )


def test_the_journal_is_a_state_that_another_stream_can_begin_with():
    run("whole")
    stop_at(4)
    run("rest", prompts=None, state_in="a.mp4.unfinished", num_chunks=5)
    assert torch.equal(made("rest")[0], made("whole")[0][:, 9:])


# -- a full disk --------------------------------------------------------------------------------------


LARGE = {"upscale": 12, "num_chunks": 20}


def fill_the_disk(limit, **options):
    """Files may not grow beyond a limit; Python gets an error as from a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with Path("said").open("w") as said, contextlib.redirect_stderr(said):
        try:
            run(state_every=2, **options)
        except OSError as error:
            print(first_sentence(error), file=said)


def test_a_full_disk_leaves_a_video_that_plays_and_a_stream_that_goes_on():
    run("whole", **LARGE)
    in_a_child(lambda: fill_the_disk(200_000, **LARGE))
    said = Path("said").read_text()
    assert "cannot use 'a.mp4': File too large" in said
    found = re.search(r"after chunk (\d+) of 20; the same command goes on with chunk (\d+)", said)
    stopped, goes_on = map(int, found.groups())
    assert 4 <= goes_on <= stopped + 1 <= 20
    shown = read_video("a.mp4")
    assert len(shown) >= 3 * (goes_on - 1)
    assert torch.equal(shown, read_video("whole.mp4")[: len(shown)])
    assert run(**LARGE) == 0
    for one, other in zip(made("a"), made("whole"), strict=True):
        assert torch.equal(one, other)


def test_a_disk_that_is_too_full_for_the_state_leaves_the_one_before():
    in_a_child(lambda: fill_the_disk(100_000))
    said = Path("said").read_text()
    assert "stopped after chunk 3 of 8; the same command goes on with chunk 1" in said
    assert "cannot use 'a.mp4.unfinished': File too large" in said
    assert files() == {"a.mp4", "a.mp4.unfinished", "a.safetensors", "said"}
    assert len(read_video("a.mp4")) == 9
    assert run() == 0


# -- how often ----------------------------------------------------------------------------------------


def test_auto_saves_take_less_than_a_hundredth_of_the_time(monkeypatch):
    state = module().open_stream(["west"])
    now = 0.0
    monkeypatch.setattr("lightning_adastate.generation.saving.time.monotonic", lambda: now)
    policy, spent, saves = SavePolicy("auto"), 0.0, []
    for chunk in range(2000):
        now += 0.1
        if policy.is_due(state):
            now += 0.05
            spent += 0.05
            policy.took(0.05, state)
            saves.append(chunk)
        assert spent <= 0.05 + 0.01 * now
    assert len(saves) > 0.8 * 0.01 * now / 0.05, "nor are they put off"


def test_a_state_that_has_grown_from_nothing_is_not_put_off(monkeypatch):
    """What is saved at the beginning is tiny, and took as long as any file does."""
    now = 0.0
    monkeypatch.setattr("lightning_adastate.generation.saving.time.monotonic", lambda: now)
    policy, state = SavePolicy("auto"), module().open_stream(["west"])
    policy.took(0.01, state)
    *_, last = module().stream(state, 4)
    now = 2.5
    assert policy.is_due(last.state)


def test_every_n_is_every_n():
    state = module().open_stream(["west"])
    policy = SavePolicy(3)
    due = []
    for chunk in range(9):
        if policy.is_due(state):
            due.append(chunk)
            policy.took(1.0, state)
    assert due == [2, 5, 8]
    with pytest.raises(ValueError, match="`state_every` must be 1 or more chunks, or auto, got 0"):
        Generation("west", state_every=0)


# -- time ---------------------------------------------------------------------------------------------


def test_a_time_is_a_number_of_seconds_or_numbers_with_units():
    for text, seconds in (
        ("90", 90),
        (1.5, 1.5),
        ("2min", 120),
        ("1h 30min", 5400),
        ("250ms", 0.25),
    ):
        assert seconds_of(text, "x") == pytest.approx(seconds)
    for wrong in ("", "2weeks", "-3s", "0s", "nan", "inf", "2 min extra"):
        with pytest.raises(ValueError, match="`x` must be a positive time like 90s, 2min or 1h"):
            seconds_of(wrong, "x")


class FourFold(PixelShuffleCodec):
    temporal_stride = 4


@pytest.mark.parametrize(
    ("first_chunk", "seconds", "chunks"),
    # At 16 frames/s a stream's chunk 0 shows 1 + 4 + 4 = 9 frames, every other 12.
    [
        (0, 9 / 16, 1),
        (0, 9.5 / 16, 2),
        (0, 10 / 16, 2),
        (0, 21 / 16, 2),
        (0, 22 / 16, 3),
        (5, 12 / 16, 1),
        (5, 13 / 16, 2),
    ],
)
def test_a_duration_is_the_fewest_chunks_that_last_so_long(first_chunk, seconds, chunks):
    clock = StreamClock(FewStepSchedule(3), FourFold(2), 16, first_chunk)
    assert clock.chunks_of(seconds) == chunks
    assert clock.frames_before(chunks) >= 16 * seconds > clock.frames_before(chunks - 1)


def test_a_stream_given_by_time_is_that_given_by_chunks():
    late = "1200ms"  # 19.2 frames of 16/s: chunk 7 begins with frame 21
    run("time", num_chunks=None, duration="2s", timeline=[Change(at=late, prompt="drifting east")])
    run("chunks", num_chunks=11, timeline=[Change(7, prompt="drifting east")])
    assert torch.equal(made("time")[0], made("chunks")[0])
    run("plain", num_chunks=11)
    assert torch.equal(made("time")[0][:, :21], made("plain")[0][:, :21])
    assert not torch.equal(made("time")[0][:, 21:24], made("plain")[0][:, 21:24])
    with pytest.raises(
        ValueError, match=r"`generation.num_chunks` or `generation.duration`, not both"
    ):
        run(num_chunks=3, duration="2s")
    with pytest.raises(ValueError, match="either `chunk` or `at`, got 3 and 2s"):
        Change(3, at="2s", prompt="west")


# -- what can never happen, and what does not fit -----------------------------------------------------


def test_what_can_never_happen_is_refused():
    run("first", num_chunks=4, state_out="s.safetensors")
    on = {"prompts": None, "state_in": "s.safetensors", "num_chunks": 3}
    for chunk, reason in (
        (3, r"changes chunk 3, and the saved stream goes on with chunk 4"),
        (7, r"changes chunk 7, and the stream ends with chunk 6"),
    ):
        with pytest.raises(ValueError, match=reason):
            run(timeline=[Change(chunk, policy="flush")], **on)
    with pytest.raises(ValueError, match="ends with chunk 7"):
        run(timeline=[Change(8, policy="restart")])
    assert run("b", timeline=[Change(6, policy="flush")], **on) == 0
    assert (
        run("c", timeline=[Change(9, policy="flush")], state_out="c.state.safetensors", **on) == 0
    )


def test_a_saved_stream_is_refused_by_another_size_and_another_part_which_is_named():
    run("first", num_chunks=2, state_out="s.safetensors")
    larger = copy.copy(module())
    larger.frame_size = (16, 16)
    with pytest.raises(ValueError, match="of 8 x 16 pixels, `model.frame_size` is 16 x 16"):
        generate(larger, Generation(output="b.mp4", state_in="s.safetensors"))
    other = load_module(
        "toy/adastate", overrides=["--model.anchor=StaticAnchor", "--model.cache.window_frames=9"]
    )
    with pytest.raises(ValueError, match=r"made with another anchor and another cache; continue"):
        generate(other, Generation(output="b.mp4", state_in="s.safetensors"))


# -- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [3, 4, 11, 12])
@pytest.mark.parametrize("quality", ["preview", "lossless"])
def test_a_video_is_taken_up_again_behind_any_frame(kept, quality):
    frames = torch.rand(18, 3, 7, 9)
    options = {"quality": quality, "chunk_frames": 6}
    with VideoWriter("whole.mp4", **options) as writer:
        writer.append(frames)
    with VideoWriter("a.mp4", **options) as writer:
        writer.append(frames[:12])
    again = VideoWriter("a.mp4", keep_frames=kept, **options)
    again.append(frames[kept:])
    again.close()
    assert files() == {"a.mp4", "whole.mp4"}
    assert times("a.mp4") == times("whole.mp4")
    if quality == "lossless":
        assert torch.equal(read_video("a.mp4"), read_video("whole.mp4"))


def test_the_old_video_stays_until_the_new_one_holds_what_is_kept():
    frames = torch.rand(9, 3, 8, 8)
    with VideoWriter("a.mp4", quality="lossless") as writer:
        writer.append(frames)
    old = Path("a.mp4").read_bytes()
    again = VideoWriter("a.mp4", quality="lossless", keep_frames=9)
    assert Path("a.mp4").read_bytes() == old
    again.append(frames[:3])
    assert files() == {"a.mp4"}
    assert len(read_video("a.mp4")) >= 9
    again.close()


def test_latents_are_taken_up_again_finished_or_not():
    parts = torch.randn(4, 3, 2, 2, 2)
    shape = (2, 2, 2)
    for finished in (False, True):
        writer = LatentsWriter("l.safetensors")
        for part in parts[:3]:
            writer.append(part)
        writer.sync()
        if finished:
            writer.finish()
        again = LatentsWriter("l.safetensors", frame_shape=shape, keep_frames=6)
        for part in parts[2:]:
            again.append(part)
        again.finish()
        assert torch.equal(load_file("l.safetensors")["latents"][0], parts.flatten(0, 1))
        Path("l.safetensors").unlink()
    with pytest.raises(ValueError, match="does not hold the 6 frames"):
        LatentsWriter("l.safetensors", frame_shape=shape, keep_frames=6)


# -- the command line ---------------------------------------------------------------------------------


def test_the_command_line_goes_on_refuses_and_starts_anew(capsys):
    command = [
        "generate",
        "--config=toy/adastate",
        "--generation.prompts=west",
        "--generation.output=a.mp4",
    ]
    assert (
        main(
            [
                *command,
                "--generation.duration=1s",
                "--generation.timeline=[{at: 0.5s, prompt: east}]",
            ]
        )
        == 0
    )
    assert main([*command, "--generation.duration=1s"]) == 1
    assert "error: 'a.mp4' is there already" in capsys.readouterr().err
    assert main([*command, "--generation.num_chunks=2", "--generation.overwrite"]) == 0
    assert len(read_video("a.mp4")) == 6
