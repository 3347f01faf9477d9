"""generate: what is streamed is exact, and nothing is ever half written."""

import copy
import functools
import re
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_cli import ANCHOR, BASE

from lightning_adastate import load_module
from lightning_adastate.__main__ import main
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.files import save_tensors
from lightning_adastate.generation.generate import Generation, generate
from lightning_adastate.media.latents import LatentsWriter
from lightning_adastate.media.reading import probe_video, read_video
from lightning_adastate.media.video import write_video
from lightning_adastate.streaming.events import kv_flush, prompt_switch


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights with a head that is not zero, so that the output depends on the whole window."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "base.yaml").write_text(BASE)
    backbone = load_module(str(folder / "base.yaml")).streamer.backbone
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    save_tensors(folder / "weights.safetensors", backbone.state_dict())
    return folder / "weights.safetensors"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(
        BASE.replace("frame_size:", f"weights: {weights}\n    frame_size:")
    )
    Path("my_anchors.py").write_text(ANCHOR)
    return tmp_path


@functools.cache
def module():
    """What the command line builds of base.yaml, which is the same in every test."""
    return load_module("base.yaml")


FROM_PYTHON = {"state_in", "state_out", "start", "seed", "decode"}


def asked_of(args):
    """Options of ``Generation``, as the command line has them."""
    asked = dict(arg.removeprefix("--generation.").split("=", 1) for arg in args)
    return {key: int(value) if key == "seed" else value for key, value in asked.items()}


def run(name, *args, chunks=3, prompts="drifting west"):
    """Generate losslessly; return the exit code, the latents and the frames.

    From Python where only streams and files are asked for: it is the same, and parses nothing.
    """
    if all(arg.removeprefix("--generation.").partition("=")[0] in FROM_PYTHON for arg in args):
        names = {"output": f"{name}.mp4", "latents": f"{name}.safetensors"}
        options = {"num_chunks": chunks, "quality": "lossless", **names, **asked_of(args)}
        code = generate(module(), Generation(prompts, **options))
        return code, load_file(names["latents"])["latents"], read_video(names["output"])
    return run_command(name, *args, chunks=chunks, prompts=prompts)


def run_command(name, *args, chunks=3, prompts="drifting west"):
    """The same, by the command line."""
    files = [f"--generation.output={name}.mp4", f"--generation.latents={name}.safetensors"]
    asked = [f"--generation.num_chunks={chunks}", "--generation.quality=lossless"]
    if prompts is not None:
        asked.append(f"--generation.prompts={prompts}")
    code = main(["generate", "--config=base.yaml", *files, *asked, *args])
    latents = load_file(f"{name}.safetensors")["latents"]
    return code, latents, read_video(f"{name}.mp4")


def files():
    own = {"base.yaml", "my_anchors.py", "__pycache__"}
    return {path.name for path in Path().iterdir()} - own


def test_the_command_line_makes_the_files_that_python_makes():
    saved = "--generation.state_out={}.state.safetensors"
    run("python", saved.format("python"), "--generation.seed=3", chunks=2)
    run_command("command", saved.format("command"), "--generation.seed=3", chunks=2)
    for end in ("mp4", "safetensors", "state.safetensors"):
        assert Path(f"python.{end}").read_bytes() == Path(f"command.{end}").read_bytes()


def test_a_stream_continued_equals_the_uninterrupted_one():
    code, whole, frames = run("whole", chunks=10)
    assert code == 0
    assert whole.shape == (1, 30, 12, 8, 16)
    _, first, first_frames = run("first", "--generation.state_out=state.safetensors", chunks=5)
    _, rest, rest_frames = run(
        "rest", "--generation.state_in=state.safetensors", chunks=5, prompts=None
    )
    assert torch.equal(torch.cat([first, rest], dim=1), whole)
    assert torch.equal(torch.cat([first_frames, rest_frames]), frames)


def test_a_short_stream_is_a_prefix_of_a_long_one():
    _, short, short_frames = run("short", chunks=4)
    _, long, long_frames = run("long", chunks=8)
    assert torch.equal(long[:, :12], short)
    assert torch.equal(long_frames[:12], short_frames)


def test_several_prompts_are_several_files_and_each_equals_its_own_row():
    Path("two.txt").write_text("drifting west\n\ndrifting east\n")
    names = ["--generation.output=v.mp4", "--generation.latents=l.safetensors"]
    common = ["generate", "--config=base.yaml", "--generation.num_chunks=2", *names]
    assert (
        main([*common, "--generation.prompts=two.txt", "--generation.state_out=s.safetensors"])
        == 0
    )
    assert files() >= {"v-00.mp4", "v-01.mp4", "l-00.safetensors", "l-01.safetensors"}
    _, alone, _ = run("alone", chunks=2)
    rows = [load_file(f"l-0{row}.safetensors")["latents"] for row in (0, 1)]
    torch.testing.assert_close(rows[0], alone, atol=1e-5, rtol=0)
    assert not torch.allclose(rows[0], rows[1], atol=1e-2)


def test_another_seed_or_prompt_branches_a_saved_stream():
    run("first", "--generation.state_out=state.safetensors", chunks=2)
    onward = ["--generation.state_in=state.safetensors"]
    _, same, _ = run("same", *onward, chunks=2, prompts="drifting west")
    _, turned, _ = run("turned", *onward, chunks=2, prompts="drifting east")
    _, kept, _ = run("kept", *onward, chunks=2, prompts=None)
    _, seeded, _ = run("seeded", *onward, "--generation.seed=5", chunks=2, prompts=None)
    assert torch.equal(same, kept)
    assert not torch.equal(seeded, kept)
    assert not torch.equal(turned, kept)


def test_a_clip_is_continued_from_its_last_whole_chunks():
    write_video("clip.mp4", torch.rand(8, 3, 16, 32), quality="lossless")
    write_video("tail.mp4", read_video("clip.mp4")[2:], quality="lossless")
    _, from_clip, _ = run("a", "--generation.start=clip.mp4")
    _, from_tail, _ = run("b", "--generation.start=tail.mp4")
    write_video("other.mp4", torch.rand(6, 3, 16, 32), quality="lossless")
    _, from_other, _ = run("d", "--generation.start=other.mp4")
    assert torch.equal(from_clip, from_tail)
    assert not torch.equal(from_clip, from_other)


def test_weights_come_from_a_checkpoint_and_the_video_is_watchable():
    save = "--trainer.callbacks={class_path: ModelCheckpoint, init_args: {dirpath: ckpt, filename: one}}"
    assert main(["fit", "--config=base.yaml", "--model.optimizer.lr=0.1", save]) == 0
    _, trained, _ = run("a", "--generation.weights=ckpt/one.ckpt")
    _, again, _ = run("b", "--ckpt_path=ckpt/one.ckpt")
    assert torch.equal(trained, again)
    assert not torch.equal(trained, run("c")[1])
    assert (
        main(
            [
                "generate",
                "--config=base.yaml",
                "--generation.prompts=a word",
                "--generation.num_chunks=1",
            ]
        )
        == 0
    )
    assert probe_video("outputs/generated.mp4").height == 192


def test_ctrl_c_closes_the_video_and_saves_the_state(capsys):
    stop = ["--model.anchor=my_anchors.InterruptingAnchor", "--model.anchor.num_frames=1"]
    code, latents, frames = run(
        "cut", *stop, "--generation.state_out=state.safetensors", chunks=50
    )
    assert code == 130
    assert latents.shape[1] == len(frames) == 9, "the chunk at work is finished"
    plain = ["--model.anchor=StaticAnchor"]
    _, whole, _ = run("whole", *plain, chunks=3)
    assert torch.equal(latents, whole)
    assert "state.safetensors" in files()


@pytest.mark.parametrize("decode", ["in_turn", "overlapped"])
def test_a_failing_stream_keeps_what_it_made_and_says_how_to_go_on(decode, capsys):
    args = ["--model.anchor=my_anchors.FailingAnchor", "--generation.prompts=a word"]
    where = [
        "--generation.output=v.mp4",
        "--generation.latents=l.safetensors",
        "--generation.state_out=s.safetensors",
        f"--generation.decode={decode}",
    ]
    assert main(["generate", "--config=base.yaml", *args, *where]) == 1
    said = capsys.readouterr().err
    assert "stopped after chunk 2 of 7; the same command goes on with chunk 3" in said
    assert "error: the third chunk fails" in said
    assert files() == {"v.mp4", "v.mp4.unfinished", "l.safetensors", "s.safetensors"}
    assert len(read_video("v.mp4")) == load_file("l.safetensors")["latents"].shape[1] == 6
    assert not any(thread.name.startswith("denoise") for thread in threading.enumerate())


MISTAKES = {
    "no prompt": ([], "generation.prompts"),
    "empty prompt": (["--generation.prompts="], "prompt is empty"),
    "empty prompt file": (["--generation.prompts=empty.txt"], "'empty.txt' is empty"),
    "missing prompt file": (["--generation.prompts=none.txt"], "does not exist"),
    "zero chunks": (
        ["--generation.num_chunks=0"],
        "`generation.num_chunks` must be 1 or more, got 0",
    ),
    "missing weights": (["--generation.weights=none.ckpt"], "no weights file 'none.ckpt'"),
    "corrupt weights": (["--generation.weights=corrupt.safetensors"], "cannot read weights"),
    "corrupt checkpoint": (["--ckpt_path=corrupt.ckpt"], "cannot read weights"),
    "broken video": (["--generation.start=corrupt.mp4"], "corrupt.mp4"),
    "short video": (
        ["--generation.start=short.mp4"],
        "has 2 frames, a stream starts from 3 or more",
    ),
    "small video": (["--generation.start=small.mp4"], "expected 16 x 32"),
    "corrupt state": (["--generation.state_in=corrupt.safetensors"], "cannot read a stream state"),
    "video's name": (["--generation.output=v.avi"], "must end in .mp4"),
    "video's place": (["--generation.output=base.yaml/v.mp4"], "cannot make the folder"),
    "latents' place": (["--generation.latents=base.yaml/l.safetensors"], "cannot make the folder"),
    "nothing to write": (["--generation.output=null"], "nothing to write"),
    "two beginnings": (
        ["--generation.start=a.mp4", "--generation.state_in=s.safetensors"],
        "not both",
    ),
}


# Those that the command line finds itself, and one of each place that finds the others.
BY_COMMAND = {
    "no prompt",
    "zero chunks",
    "missing weights",
    "corrupt weights",
    "corrupt checkpoint",
    "latents' place",
    "nothing to write",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_writes_nothing(mistake, capsys):
    args, expected = MISTAKES[mistake]
    Path("empty.txt").write_text("\n \n")
    for name in ("corrupt.safetensors", "corrupt.ckpt", "corrupt.mp4"):
        Path(name).write_bytes(b"x" * 100)
    write_video("short.mp4", torch.rand(2, 3, 16, 32), quality="lossless")
    write_video("small.mp4", torch.rand(3, 3, 8, 8), quality="lossless")
    before = files()
    prompts = [] if mistake == "no prompt" else ["--generation.prompts=a word"]
    if mistake in BY_COMMAND:
        assert main(["generate", "--config=base.yaml", *prompts, *args]) in (1, 2)
        lines = [line for line in capsys.readouterr().err.splitlines() if "Seed set" not in line]
        assert len(lines) == 1, lines
        assert expected in lines[0]
    else:
        with pytest.raises(ValueError, match=re.escape(expected)):
            generate(module(), Generation(**asked_of([*prompts, *args])))
    assert files() == before


def test_a_state_of_other_components_is_refused(capsys):
    run("first", "--generation.state_out=state.safetensors", chunks=2)
    asked = ["--generation.state_in=state.safetensors", "--model.anchor=AdaptiveAnchor"]
    assert main(["generate", "--config=base.yaml", *asked]) == 1
    assert "another anchor" in capsys.readouterr().err


def test_a_state_of_other_weights_is_refused(weights, capsys):
    run("first", "--generation.state_out=state.safetensors", chunks=2)
    tuned = load_file(weights)
    tuned["blocks.0.ffn.0.weight"][-1, -1] += 0.01
    save_tensors("tuned.safetensors", tuned)
    asked = ["--generation.state_in=state.safetensors", "--generation.weights=tuned.safetensors"]
    assert main(["generate", "--config=base.yaml", *asked]) == 1
    assert "was made with other weights" in capsys.readouterr().err


def test_latents_appear_only_when_whole(tmp_path):
    writer = LatentsWriter(tmp_path / "l.safetensors")
    parts = [torch.randn(3, 2, 2, 2) for _ in range(4)]
    for part in parts:
        writer.append(part)
        assert not (tmp_path / "l.safetensors").exists()
    writer.finish()
    assert torch.equal(load_file(tmp_path / "l.safetensors")["latents"][0], torch.cat(parts))
    assert [path.name for path in tmp_path.glob("*l.safetensors*")] == ["l.safetensors"]


def test_a_state_that_cannot_be_written_is_refused_before_the_stream(capsys):
    Path("file").touch()
    asked = ["--generation.prompts=west", "--generation.output=new/a.mp4"]
    state = "--generation.state_out=file/state.safetensors"
    assert main(["generate", "--config=base.yaml", *asked, state]) == 1
    captured = capsys.readouterr()
    assert "cannot make the folder 'file'" in captured.err
    assert "chunks" not in captured.out
    assert files() == {"file"}


def test_one_file_cannot_be_two_outputs(capsys):
    asked = ["--generation.prompts=west", "--generation.latents=a.safetensors"]
    state = "--generation.state_out=./a.safetensors"
    assert main(["generate", "--config=base.yaml", *asked, state]) == 1
    assert "must be different files" in capsys.readouterr().err
    assert files() == set()


def test_a_timeline_in_yaml_is_that_of_the_api():
    Path("timeline.yaml").write_text(
        """
generation:
  timeline:
    - {chunk: 2, prompt: "drifting east", policy: recache, frames: 3}
    - {chunk: 3, policy: flush, frames: 1}
"""
    )
    _, made, _ = run("made", "--config=timeline.yaml", chunks=5)
    timeline = (prompt_switch(2, 1, frames=3), kv_flush(3, keep_frames=1))
    state = module().open_stream(
        ["drifting west"], timeline=timeline, later_prompts=[["drifting east"]]
    )
    parts = [piece.chunk.latents_BFCHW for piece in module().stream(state, 5)]
    assert torch.equal(made, torch.cat(parts, dim=1))
    _, plain, _ = run("plain", chunks=5)
    assert torch.equal(made[:, :6], plain[:, :6])
    assert not torch.equal(made[:, 6:9], plain[:, 6:9])


def test_a_saved_stream_takes_a_new_timeline():
    switch = "[{chunk: 3, prompt: drifting east, policy: keep}]"
    _, whole, _ = run("whole", f"--generation.timeline={switch}", chunks=5)
    run("first", "--generation.state_out=state.safetensors", chunks=2)
    _, rest, _ = run(
        "rest",
        "--generation.state_in=state.safetensors",
        f"--generation.timeline={switch}",
        chunks=3,
        prompts=None,
    )
    assert torch.equal(rest, whole[:, 6:])


@pytest.mark.parametrize(
    ("timeline", "reason"),
    [
        ("[{chunk: 0, prompt: a}]", "`timeline.chunk` must be 1 or more"),
        ("[{chunk: 2, policy: keep}]", "changes nothing"),
        ("[{chunk: 2, prompt: a, policy: restart}]", "no `prompt` of its own"),
        ("[{chunk: 2, prompt: a}, {chunk: 2, policy: flush}]", "chunk 2 has two changes"),
        ("[{chunk: 2, prompt: a, policy: melt}]", "melt"),
    ],
)
def test_a_timeline_that_makes_no_sense_is_one_sentence(timeline, reason, capsys):
    code = main(
        [
            "generate",
            "--config=base.yaml",
            "--generation.prompts=drifting west",
            f"--generation.timeline={timeline}",
        ]
    )
    assert code in (1, 2)
    assert reason in capsys.readouterr().err


# -- decoding beside denoising ------------------------------------------------------------------------

OVERLAPPED = "--generation.decode=overlapped"


CODEC = """
import signal
import threading
import torch
from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.codecs import PixelShuffleCodec

class InterruptingCodec(PixelShuffleCodec):
    def decode(self, latents_BFCHW, state):
        count = state.get("count", torch.zeros(len(latents_BFCHW))) + 1
        if count[0] == 3:
            signal.raise_signal(signal.SIGINT)
        return super().decode(latents_BFCHW, {})[0], {"count": count}

THREADS = []

class ThreadAnchor(StaticAnchor):
    def commit(self, contents, committed):
        THREADS.append(threading.current_thread() is threading.main_thread())
        return contents
"""


def test_overlapped_streams_are_denoised_in_a_thread_of_their_own():
    Path("my_codec.py").write_text(CODEC)
    anchor = "--model.anchor=my_codec.ThreadAnchor"
    run("turn", anchor, chunks=2)
    run("over", anchor, OVERLAPPED, chunks=2)
    assert sys.modules["my_codec"].THREADS == [True, True, False, False]


def test_overlapped_files_are_those_made_in_turn():
    Path("two.txt").write_text("drifting west\ndrifting east\n")
    for name, how in (("turn", []), ("over", [OVERLAPPED])):
        one = [f"--generation.state_out={name}.state.safetensors", *how]
        run(name, *one, chunks=4)
        on = [f"--generation.state_in={name}.state.safetensors", *how]
        run(f"{name}-on", *on, chunks=2, prompts=None)
        names = [f"--generation.{kind}={name}-two.{end}" for kind, end in TWO.items()]
        common = ["generate", "--config=base.yaml", "--generation.num_chunks=2", *how]
        assert main([*common, "--generation.prompts=two.txt", *names]) == 0
    made = sorted(name for name in files() if name.startswith("turn"))
    assert len(made) == 3 + 2 + 4
    for name in made:
        other = name.replace("turn", "over")
        assert Path(name).read_bytes() == Path(other).read_bytes(), name


TWO = {"output": "mp4", "latents": "safetensors"}


def test_an_overlapped_stream_stopped_by_hand_is_whole_and_goes_on_exactly():
    Path("my_codec.py").write_text(CODEC)
    saved = "--generation.state_out=state.safetensors"
    stop = "--model.codec=my_codec.InterruptingCodec"
    code, cut, frames = run("cut", stop, saved, OVERLAPPED, chunks=50)
    assert code == 130
    assert cut.shape[1] == len(frames) == 9, (
        "the chunk that is shown is finished, the next dropped"
    )
    onward = "--generation.state_in=state.safetensors"
    _, rest, _ = run("rest", stop, onward, OVERLAPPED, chunks=2, prompts=None)
    _, whole, _ = run("whole", chunks=5)
    assert torch.equal(torch.cat([cut, rest], dim=1), whole)


def test_a_signal_while_the_next_chunk_is_made_stops_an_overlapped_stream_too():
    stop = ["--model.anchor=my_anchors.InterruptingAnchor", "--model.anchor.num_frames=1"]
    code, cut, frames = run("cut", *stop, OVERLAPPED, chunks=50)
    assert code == 130
    assert cut.shape[1] == len(frames)
    assert len(frames) in (3, 6, 9), "the signal may come while an earlier chunk is written"


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_weights_are_built_in_the_format_that_streams(monkeypatch, precision):
    """Else a 14B model in bfloat16 would take 57 GB on the way to 28."""
    built, original = [], WanTransformer._initialise

    def spy(self):
        original(self)
        built.append({parameter.dtype for parameter in self.parameters()})

    monkeypatch.setattr(WanTransformer, "_initialise", spy)
    code, latents, _ = run("out", f"--trainer.precision={precision}", chunks=2)
    assert code == 0
    assert bool(latents.isfinite().all())
    assert built == [{torch.bfloat16 if precision == "bf16-true" else torch.float32}]
    assert torch.get_default_dtype() == torch.float32


OWN_MODULE = """
from pathlib import Path

from lightning_adastate import SelfForcing


class Noting(SelfForcing):
    def reencode(self, state, video_BFCHW):
        with Path("noted").open("a") as notes:
            notes.write(f"{state.chunk} ")
        return super().reencode(state, video_BFCHW)
"""


@pytest.mark.parametrize("decode", ["in_turn", "overlapped"])
def test_a_module_class_of_the_users_own_is_what_streams(decode):
    """Whatever it overrides; a stage of ours would be built without its losses."""
    Path("my_modules.py").write_text(OWN_MODULE)
    own = Path("base.yaml").read_text().replace("SelfForcing", "my_modules.Noting")
    _, plain, _ = run_command("plain", f"--generation.decode={decode}")
    Path("base.yaml").write_text(own)
    sys.modules.pop("my_modules", None)
    code, latents, _ = run_command("own", f"--generation.decode={decode}")
    assert code == 0
    assert Path("noted").read_text() == "1 2 3 "
    assert torch.equal(latents, plain)


DIVERGING = """
from dataclasses import replace

from lightning_adastate.anchors import StaticAnchor


class DivergingAnchor(StaticAnchor):
    def absorb(self, contents, evicted, retained):
        evicted = evicted.frames(evicted.num_frames - self.num_frames)
        return {"sink": replace(evicted, value_LBFTND=evicted.value_LBFTND * float("nan"))}
"""


@pytest.mark.parametrize("decode", ["in_turn", "overlapped"])
def test_a_stream_that_is_not_finite_stops_and_what_was_written_is_whole(decode, capsys):
    """The window holds two chunks: the third one evicts, and reads what the anchor made of it."""
    Path("my_diverging.py").write_text(DIVERGING)
    sys.modules.pop("my_diverging", None)
    files = ["--generation.output=a.mp4", "--generation.latents=a.safetensors"]
    options = [f"--generation.decode={decode}", "--generation.num_chunks=5"]
    anchor = "--model.anchor=my_diverging.DivergingAnchor"
    command = ["generate", "--config=base.yaml", "--generation.prompts=drifting west"]
    assert main([*command, *files, *options, anchor]) == 1
    assert "the latents of chunk 2 are not finite; what was written before it is whole" in (
        capsys.readouterr().err
    )
    assert load_file("a.safetensors")["latents"].shape[1] == 6
    assert len(read_video("a.mp4")) == 6


def test_a_stream_that_begins_with_nan_leaves_nothing():
    """The weights are it themselves: there is nothing whole, and the state would carry it on."""
    model = copy.deepcopy(module())
    with torch.no_grad():
        for parameter in model.streamer.backbone.head.parameters():
            parameter.fill_(torch.nan)
    names = {"output": "a.mp4", "latents": "a.safetensors", "state_out": "s.safetensors"}
    with pytest.raises(ValueError, match=r"chunk 0 are not finite; nothing was written"):
        generate(model, Generation("drifting west", num_chunks=3, **names))
    assert files() == set()


def test_weights_may_be_named_from_python_and_modes_are_left_alone():
    weights = {n: 1.01 * w for n, w in module().streamer.backbone.state_dict().items()}
    save_file(weights, "mine.safetensors")
    plain, other = module(), copy.deepcopy(module())
    other.train()
    inside = other.streamer.backbone.blocks[0].eval()
    for model, chosen, name in ((plain, None, "a"), (other, "mine.safetensors", "b")):
        options = {"output": None, "latents": f"{name}.safetensors"}
        assert generate(model, Generation("drifting west", weights=chosen, **options)) == 0
    one, two = (load_file(f"{name}.safetensors")["latents"] for name in "ab")
    assert not torch.equal(one, two)
    assert other.streamer.backbone.training
    assert not inside.training


def test_a_run_says_what_it_wrote(capsys):
    options = {"output": "a.mp4", "latents": "a.safetensors", "state_out": "s.safetensors"}
    assert generate(module(), Generation("drifting west", num_chunks=1, **options)) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "written to a.mp4, a.safetensors, s.safetensors"
    assert Path("s.safetensors").stat().st_mode == Path("a.mp4").stat().st_mode


def test_a_lone_prompt_is_no_stream_per_letter():
    with pytest.raises(ValueError, match=r"prompts are a list, one per stream; write \['west'\]"):
        module().open_stream("west")
