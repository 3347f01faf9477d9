"""docs/extending.md is run as it stands: its classes live in files outside the package, its commands run here."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from tiny import contents, frames

import lightning_adastate
from lightning_adastate.__main__ import main
from lightning_adastate.types import WindowFrames

PAGE = Path(lightning_adastate.__file__).parent.parent / "docs" / "extending.md"
if not PAGE.exists():
    pytest.skip("no docs in an installed package", allow_module_level=True)
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
FILES = {
    named[1]: code for _, code in BLOCKS if (named := re.match(r"# (\w+\.(?:py|yaml))\n", code))
}
COMMANDS = [
    shlex.split(line)[3:]
    for language, code in BLOCKS
    if language == "bash"
    for line in code.replace("\\\n", " ").splitlines()
]
SMALL = """\
--trainer.max_steps=2 --trainer.accelerator=cpu --trainer.enable_progress_bar=false
--trainer.enable_model_summary=false --trainer.logger.save_dir=runs --model.critic_warmup=0
--model.critic_steps=1 --model.num_frames=12 --data.num_clips=12 --data.video_frames=12
--data.clip_frames=12 --data.batch_size=4 --data.cache_folder=clips
""".split()  # noqa: SIM905


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory):
    """An empty folder with the page's files; what they import as is forgotten afterwards."""
    folder = tmp_path_factory.mktemp("outside")
    modules = [name.removesuffix(".py") for name in FILES if name.endswith(".py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        for name, code in FILES.items():
            (folder / name).write_text(code)
        for name in modules:
            sys.modules.pop(name, None)
        yield folder
        for name in modules:
            sys.modules.pop(name, None)


def outside(name):
    """A class of the page, from its file."""
    file, _, what = name.partition(".")
    return getattr(importlib.import_module(file), what)


def trained(overlay):
    """The generator's weights after a short training with an overlay in place of the page's."""
    Path("other.yaml").write_text(overlay)
    before = set(Path("runs").rglob("last.ckpt"))
    assert main(["fit", "--config", "toy/adastate", "--config", "other.yaml", *SMALL]) == 0
    (path,) = set(Path("runs").rglob("last.ckpt")) - before
    weights = torch.load(path, weights_only=True)["state_dict"]
    return torch.cat([t.flatten() for n, t in weights.items() if n.startswith("generator.")])


def stream(name, *args, chunks=5):
    """Stream with the page's recipe; return the exit code."""
    recipe = ["--config=toy/adastate", "--config=mine.yaml", "--trainer.accelerator=cpu"]
    asked = [f"--generation.num_chunks={chunks}", "--generation.output=null"]
    asked.append("--generation.overwrite=true")
    return main(["generate", *recipe, *asked, f"--generation.latents={name}.safetensors", *args])


def streamed(name, *args, chunks=5):
    """The latents of a stream with the page's recipe."""
    assert stream(name, *args, chunks=chunks) == 0
    return load_file(f"{name}.safetensors")["latents"]


PROMPT = "--generation.prompts=drifting slowly west"


def test_the_page_has_what_is_tested_here():
    assert {
        "my_anchors.py",
        "my_caches.py",
        "my_callbacks.py",
        "my_rewards.py",
        "mine.yaml",
    } <= set(FILES)
    assert [words[0] for words in COMMANDS] == ["fit", "generate", "fit"]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_the_pages_commands_run(words, capsys):
    if words[0] == "generate":
        words = [*words, "--generation.num_chunks=3", "--trainer.accelerator=cpu"]
    elif "--config" in words:
        words = [*words, *SMALL]
    assert main(words) == 0, capsys.readouterr().err


def test_the_anchor_keeps_the_newest_landmarks_among_what_left():
    anchor = outside("my_anchors.LandmarkAnchor")(2, every=3)
    assert anchor.read(anchor.empty(), 0) == ()
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2), ())
    assert [contents(kv) for kv in anchor.read(held, 9)] == [[0.0]]
    assert anchor.absorb(held, frames(4, 5), ()) is held
    held = anchor.absorb(held, frames(3, 4, 5, 6, 7), ())
    (shown,) = anchor.read(held, 9)
    assert contents(shown) == [3.0, 6.0]
    assert shown.frame_indices == (3, 6)


def test_the_cache_moves_the_anchor_back_and_nothing_else():
    cache = outside("my_caches.GapCache")(window_frames=6, gap=2)
    found = cache.positions(WindowFrames((0, 6), 0, (12, 13, 14), (15, 16, 17)), None)
    assert found.anchor == (-2, -1)
    assert found.cached == (2, 3, 4)
    assert found.live.query == found.live.key == (5, 6, 7)


def test_the_callback_weighs_by_motion():
    video = torch.tensor([0.0, 1.0, 1.0, 3.0]).reshape(1, 4, 1, 1, 1).expand(2, 4, 3, 2, 2)
    callback = outside("my_callbacks.MotionWeighting")(gain=0.5)
    weights = callback.frame_weights(LightningModule(), torch.full((2, 4), 2.0), video)
    torch.testing.assert_close(
        weights, torch.tensor([[2.0, 3.0, 2.0, 4.0]] * 2), atol=1e-6, rtol=0
    )


def test_anchor_and_cache_change_the_stream_once_a_frame_left_the_window():
    plain = streamed("plain", PROMPT)
    for change in ("--model.anchor.every=1", "--model.cache.gap=0"):
        other = streamed("other", PROMPT, change)
        assert torch.equal(other[:, :6], plain[:, :6]), change
        assert not torch.equal(other[:, 9:], plain[:, 9:]), change


def test_a_stream_of_theirs_is_saved_and_continued_and_refused_with_other_arguments(capsys):
    whole = streamed("whole", PROMPT, chunks=6)
    state = "state.safetensors"
    first = streamed("first", PROMPT, f"--generation.state_out={state}", chunks=4)
    second = streamed("second", f"--generation.state_in={state}", chunks=2)
    assert torch.equal(torch.cat([first, second], dim=1), whole)
    for part, change in (("anchor", "--model.anchor.every=2"), ("cache", "--model.cache.gap=1")):
        assert stream("refused", f"--generation.state_in={state}", change) == 1
        assert f"made with another {part};" in capsys.readouterr().err


def test_the_callback_changes_what_is_learnt():
    overlay = FILES["mine.yaml"]
    assert "gain: 0.5" in overlay
    with_callback = trained(overlay)
    assert torch.equal(trained(overlay), with_callback)
    assert not torch.equal(trained(overlay.replace("gain: 0.5", "gain: 0.0")), with_callback)


def test_the_reward_likes_calm_clips():
    reward = outside("my_rewards.CalmReward")(0.5)
    still, moving = torch.zeros(1, 3, 3, 4, 4), torch.zeros(1, 3, 3, 4, 4)
    moving[:, 1] = 1.0
    assert reward(torch.cat([still, moving]), ["a", "b"]).tolist() == [0.0, -2.0]


def test_the_reward_changes_what_is_learnt():
    weighing = (
        "{class_path: RewardWeighting, init_args: {reward: my_rewards.CalmReward, beta: %s}}"
    )
    overlay = "trainer:\n  callbacks+:\n    - %s\n"
    with_reward = trained(overlay % (weighing % 2.0))
    without = trained(overlay % (weighing % 0.0))
    assert not torch.equal(with_reward, without)
