"""predict: a video per prompt and seed, in VBench's names, each whole or absent and none made twice."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_adastate import Generation, VideoPredictionWriter, generate, load_recipe
from lightning_adastate.__main__ import main
from lightning_adastate.data import PromptFileData
from lightning_adastate.evaluation.vbench import hand_over
from lightning_adastate.evaluation.video_groups import find_groups
from lightning_adastate.media.reading import read_video
from lightning_adastate.media.video import read_comment

PROMPTS = ["drifting slowly west", "drifting slowly east", "drifting fast north"]
COMMON = [
    "--config=toy/adastate",
    "--trainer.accelerator=cpu",
    "--data=PromptFileData",
    "--data.path=p.txt",
]
SHORT = ["--data.num_chunks=2", "--trainer.enable_progress_bar=false"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text(
        "\n".join([*PROMPTS, PROMPTS[0]]) + "\n"
    )  # VBench repeats prompts too


def predict(*options):
    return main(["predict", *COMMON, *SHORT, *options])


def names(samples):
    return sorted(f"{prompt}-{sample}.mp4" for prompt in PROMPTS for sample in range(samples))


def test_every_prompt_and_seed_is_a_video_of_vbenchs_name_and_the_one_that_generate_makes(capsys):
    options = ["--prediction.folder=made", "--prediction.quality=lossless", "--data.batch_size=2"]
    assert predict(*options, "--data.samples=2") == 0
    assert sorted(os.listdir("made")) == names(2)
    assert "6 videos written to made" in capsys.readouterr().out
    recipe = load_recipe("toy/adastate")
    Path("unique.txt").write_text("\n".join(PROMPTS))
    groups = []
    for seed in range(2):
        where = f"seed{seed}/out.mp4"
        generate(
            recipe.module,
            Generation("unique.txt", num_chunks=2, seed=seed, output=where, quality="lossless"),
        )
        groups.append(Path(f"seed{seed}"))
    hand_over(find_groups(groups), PROMPTS, Path("handed"), "link")
    assert sorted(os.listdir("handed")) == names(2)
    for name in names(2):
        ours, theirs = (read_video(Path(folder) / name).int() for folder in ("made", "handed"))
        assert (ours - theirs).abs().max() <= 1, "rows of another batch differ in rounding only"
    first, second = (read_video(f"made/{PROMPTS[0]}-{seed}.mp4").int() for seed in range(2))
    assert (first - second).abs().max() > 10


def test_finished_videos_are_not_made_again_and_missing_ones_are(capsys):
    assert predict("--prediction.folder=made") == 0
    before = {name: os.stat(f"made/{name}").st_mtime_ns for name in os.listdir("made")}
    os.remove(f"made/{PROMPTS[1]}-0.mp4")
    assert predict("--prediction.folder=made") == 0
    assert "1 videos written to made, 2 were there already" in capsys.readouterr().out
    after = {name: os.stat(f"made/{name}").st_mtime_ns for name in os.listdir("made")}
    assert [name for name in before if before[name] != after[name]] == [f"{PROMPTS[1]}-0.mp4"]
    assert predict("--prediction.folder=made", "--prediction.overwrite=true") == 0
    assert "3 videos written" in capsys.readouterr().out


@pytest.mark.parametrize(
    "other",
    [
        "--prediction.fps=8",
        "--data.num_chunks=3",
        "--model.weights=toy/teacher.safetensors",
        "--model.anchor=anchors/none",
    ],
)
def test_a_video_made_from_something_else_is_not_taken_for_finished(other, capsys):
    Path("p.txt").write_text(PROMPTS[0])
    assert predict("--prediction.folder=made") == 0
    before = Path(f"made/{PROMPTS[0]}-0.mp4").read_bytes()
    assert predict("--prediction.folder=made", other) == 1
    assert (
        f"'made/{PROMPTS[0]}-0.mp4' is there and was made from something else"
        in capsys.readouterr().err
    )
    assert Path(f"made/{PROMPTS[0]}-0.mp4").read_bytes() == before


def test_videos_are_called_after_other_prompts_than_they_are_made_of(capsys):
    Path("names.txt").write_text("a\nb\nc\nd\n")
    assert predict("--prediction.folder=made", "--data.names=names.txt") == 0
    assert sorted(os.listdir("made")) == ["a-0.mp4", "b-0.mp4", "c-0.mp4", "d-0.mp4"]
    comment = json.loads(read_comment("made/b-0.mp4"))
    assert (comment["prompt"], comment["seed"], comment["stream_id"]) == (PROMPTS[1], 0, 1)
    Path("names.txt").write_text("a\nb\n")
    assert predict("--prediction.folder=made", "--data.names=names.txt") == 1
    assert "has 2 lines, 'p.txt' has 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ("fine", ["--prediction.fps=1000000000000"], "`fps` must be in (0, 1000]"),
        ("fine", ["--prediction.upscale=100000"], "`upscale` must be 1024 or less"),
        ("fine", ["--data.samples=0"], "`samples` must be 1 or more, got 0"),
        ("fine", ["--data.path=."], "the prompt '.' is a folder"),
        ("east/west", [], "has a '/', which no file name can have"),
        ("long " * 60, [], "has 60 words, the most is 8"),
        ("x" * 250, [], "makes a file name of 256 bytes"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_made_is_refused_and_leaves_nothing(line, options, message, capsys):
    Path("p.txt").write_text(line)
    assert predict("--prediction.folder=new/made", *options) in (1, 2)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert not Path("new").exists()


def test_weights_that_are_not_finite_leave_no_video(capsys, monkeypatch):
    recipe = load_recipe("toy/adastate")
    with torch.no_grad():
        next(recipe.module.streamer.backbone.parameters()).fill_(float("nan"))
    writer = VideoPredictionWriter("made")
    trainer = Trainer(
        logger=False, callbacks=[writer], enable_progress_bar=False, accelerator="cpu"
    )
    with pytest.raises(
        ValueError, match="latents of chunk 0 of 'drifting slowly west-0.mp4' are not finite"
    ):
        trainer.predict(recipe.module, PromptFileData("p.txt"))
    assert [name for name in os.listdir() if name != "p.txt"] == []


def test_the_captions_set_aside_become_videos_too():
    options = [
        "--data.num_clips=16",
        "--data.val_fraction=0.25",
        "--data.batch_size=3",
        "--data.cache_folder=cache",
    ]
    few = ["--data.video_frames=21", "--prediction.folder=made", "--trainer.accelerator=cpu"]
    assert main(["predict", "--config=toy/adastate", *options, *few]) == 0
    assert sorted(os.listdir("made")) == [
        "000000-00.mp4",
        "000000-01.mp4",
        "000000-02.mp4",
        "000001-00.mp4",
    ]
    assert len(read_video("made/000001-00.mp4")) == 21


def test_from_python_it_is_a_callback():
    recipe = load_recipe("toy/adastate")
    options = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(**options, callbacks=[VideoPredictionWriter("made")])
    data = PromptFileData("p.txt", samples=2, num_chunks=1)
    made = trainer.predict(recipe.module, data)
    assert (
        sorted(name for batch in made for name in batch) == sorted(os.listdir("made")) == names(2)
    )
    videos = Trainer(**options).predict(recipe.module, data)
    assert [tuple(video.shape) for video in videos] == [(1, 3, 3, 8, 16)] * 6
    two = [VideoPredictionWriter("made"), VideoPredictionWriter("other")]
    with pytest.raises(ValueError, match="give one VideoPredictionWriter, got 2"):
        Trainer(**options, callbacks=two).predict(recipe.module, data)


def start(*options):
    command = [sys.executable, "-m", "lightning_adastate", "predict", *COMMON, *options]
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # ignored in background jobs
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **pipes, preexec_fn=listen)  # noqa: PLW1509 - no threads here


@pytest.mark.slow
def test_two_processes_share_the_videos_and_one_finishes_what_they_left():
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    more = ["--data.num_chunks=2", "--data.samples=3", "--prediction.folder=made"]
    run = start(*more, *two)
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said
    assert "9 videos written to made" in said
    assert sorted(os.listdir("made")) == names(3)
    for name in names(3)[::2]:
        os.remove(f"made/{name}")
    run = start(*more)
    assert "5 videos written to made, 4 were there already" in run.communicate(timeout=300)[0]
    run = start(*more, *two)
    assert "0 videos written to made, 9 were there already" in run.communicate(timeout=300)[0]
    Path("p.txt").write_text(PROMPTS[0])
    run = start("--data.num_chunks=2", "--prediction.folder=one", *two)
    assert "1 videos written to one" in run.communicate(timeout=300)[0]


@pytest.mark.parametrize(
    "sign",
    [
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, marks=pytest.mark.nightly),
    ],
)
def test_a_run_that_is_stopped_leaves_whole_videos_and_the_next_makes_the_others(sign):
    more = ["--data.num_chunks=60", "--data.samples=4", "--prediction.folder=made"]
    run = start(*more)
    while not (Path("made").is_dir() and os.listdir("made")):
        time.sleep(0.05)
        assert run.poll() is None
    run.send_signal(sign)
    said = run.communicate(timeout=120)[0]
    assert run.returncode != 0
    kept = os.listdir("made")
    assert 0 < len(kept) < 12
    assert all(len(read_video(f"made/{name}")) == 180 for name in kept)
    if sign != signal.SIGKILL:
        assert "the same call makes the others" in said
        assert [name for name in os.listdir() if name.endswith(".partial")] == []
    run = start(*more)
    assert (
        f"{12 - len(kept)} videos written to made, {len(kept)} were there" in run.communicate()[0]
    )
