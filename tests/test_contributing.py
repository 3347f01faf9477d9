"""CONTRIBUTING.md is run as it stands: its anchor keeps the contract and streams, its callback trains."""

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from tiny import contents, frames

import lightning_adastate
from lightning_adastate.__main__ import main

PAGE = Path(lightning_adastate.__file__).parent.parent / "CONTRIBUTING.md"
if not PAGE.exists():
    pytest.skip("no CONTRIBUTING in an installed package", allow_module_level=True)
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
(RECIPE,) = (code for language, code in BLOCKS if language == "yaml")

SPEC = importlib.util.spec_from_file_location(
    "anchor_contract", Path(__file__).parent / "anchors" / "test_contract.py"
)
CONTRACT = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(CONTRACT)
CLAUSES = [
    clause
    for name, clause in vars(CONTRACT).items()
    if name.startswith("test_") and "kind" in inspect.signature(clause).parameters
]
SHORT = """\
--config=toy/adastate --trainer.accelerator=cpu --trainer.max_steps=2 --trainer.logger.save_dir=runs
--trainer.enable_progress_bar=false --trainer.enable_model_summary=false --model.critic_warmup=0
--model.critic_steps=1 --model.num_frames=12 --data.num_clips=12 --data.video_frames=12
--data.clip_frames=12 --data.batch_size=4 --data.cache_folder=clips
""".split()  # noqa: SIM905


@pytest.fixture(scope="module", autouse=True)
def my_file(tmp_path_factory):
    """The page's classes, from `my_file.py` in the working directory, and its configuration beside it."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_file.py").write_text("\n\n".join(PYTHON))
    (folder / "tail.yaml").write_text(RECIPE.replace("TailAnchor", "my_file.TailAnchor"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        sys.modules.pop("my_file", None)
        yield importlib.import_module("my_file")
        sys.modules.pop("my_file", None)


def streamed(name, *args, chunks=5):
    """The latents of a short stream with the page's anchor."""
    asked = ["--config=toy/adastate", "--trainer.accelerator=cpu", "--generation.output=null"]
    asked += ["--model.anchor=my_file.TailAnchor", f"--generation.num_chunks={chunks}", *args]
    assert main(["generate", *asked, f"--generation.latents={name}.safetensors"]) == 0
    return load_file(f"{name}.safetensors")["latents"]


PROMPT = "--generation.prompts=drifting slowly west"


def test_the_page_has_an_anchor_and_a_callback(my_file):
    assert [re.findall(r"^class (\w+)", code, re.MULTILINE) for code in PYTHON] == [
        ["TailAnchor"],
        ["ContrastWeighting"],
    ]
    assert len(CLAUSES) >= 4


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.__name__)
def test_the_anchor_keeps_the_contract(clause, my_file):
    clause(my_file.TailAnchor)


def test_the_anchor_shows_the_newest_frame_of_every_nth_eviction(my_file):
    anchor = my_file.TailAnchor(interval=2)
    held, shown = anchor.empty(), []
    for first in (0, 3, 6, 9):
        held = anchor.absorb(held, frames(first, first + 1, first + 2), ())
        shown.append(contents(anchor.read(held, first + 3)))
    assert shown == [[2.0], [2.0], [8.0], [8.0]]


def test_the_anchor_streams_and_its_interval_counts():
    often = streamed("often", PROMPT, "--model.anchor.interval=1")
    default = streamed("default", PROMPT, "--model.anchor=tail.yaml")
    assert torch.equal(streamed("same", PROMPT), default), "the configuration has the defaults"
    assert torch.equal(often[:, :9], default[:, :9])
    assert not torch.equal(often[:, 9:], default[:, 9:])


def test_a_stream_of_the_anchor_goes_on_with_its_own_interval_alone(capsys):
    state = "state.safetensors"
    whole = streamed("whole", PROMPT, chunks=5)
    first = streamed("first", PROMPT, f"--generation.state_out={state}", chunks=4)
    rest = streamed("rest", f"--generation.state_in={state}", chunks=1)
    assert torch.equal(torch.cat([first, rest], dim=1), whole)
    with pytest.raises(AssertionError):
        streamed("no", f"--generation.state_in={state}", "--model.anchor.interval=9")
    assert "made with another anchor" in capsys.readouterr().err


def test_the_callback_weighs_by_contrast(my_file):
    video = torch.randn(2, 1, 3, 4, 4) * torch.tensor([1.0, 2.0, 0.5]).reshape(1, 3, 1, 1, 1)
    callback = my_file.ContrastWeighting(gain=2.0)
    weights = callback.frame_weights(LightningModule(), torch.full((2, 3), 3.0), video)
    torch.testing.assert_close(weights, torch.tensor([[3.0, 9.0, 6.0]] * 2), atol=1e-5, rtol=0)


def trained(gain):
    """The generator's weights after two steps."""
    (line,) = re.findall(r"`(trainer\.callbacks\+: .*)`", PAGE.read_text())
    key, _, entry = line.partition(": ")
    assert key == "trainer.callbacks+"
    (callback,) = yaml.safe_load(entry.replace("gain: 0.5", f"gain: {gain}"))
    overlay = {"trainer": {"callbacks+": [callback]}}
    Path("mine.yaml").write_text(yaml.safe_dump(overlay))
    before = set(Path("runs").rglob("last.ckpt"))
    assert main(["fit", *SHORT, "--config=mine.yaml"]) == 0
    (path,) = set(Path("runs").rglob("last.ckpt")) - before
    weights = torch.load(path, weights_only=True)["state_dict"]
    return torch.cat([t.flatten() for n, t in weights.items() if n.startswith("generator.")])


def test_the_callback_changes_what_two_steps_learn():
    assert not torch.equal(trained(0.5), trained(0.0))
