"""The command line: what is asked for is what runs, and every mistake is one sentence."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import lightning_adastate
from lightning_adastate import load_module
from lightning_adastate.__main__ import MODEL_VERBS, READER_GONE, SMALL_VERBS, main
from lightning_adastate.cli.early_exit import DEFAULTS

BASE = """
model:
  class_path: SelfForcing
  init_args:
    backbone: {class_path: WanTransformer, init_args: {dim: 24, ffn_dim: 32, num_heads: 2, num_layers: 2, in_channels: 12, patch_size: [1, 1, 1], freq_dim: 16, text_dim: 8, text_tokens: 4}}
    anchor: {class_path: EMAAnchor, init_args: {num_frames: 2, decay: 0.9}}
    cache: {class_path: RelativisticCache, init_args: {window_frames: 6}}
    schedule: {class_path: FewStepSchedule, init_args: {chunk_frames: 3, steps: [1000, 500], shift: 1.0}}
    codec: {class_path: PixelShuffleCodec}
    text_encoder: {class_path: VocabularyEncoder, init_args: {text_dim: 8, max_tokens: 4}}
    loss: {class_path: DMDLoss, init_args: {guidance: 0.0, weighting: {class_path: HorizonWeighting, init_args: {alpha: 3.0}}}}
    critic_loss: {class_path: CriticLoss}
    optimizer: {class_path: AdamW, init_args: {lr: 2.0e-6}}
    critic_optimizer: {class_path: AdamW, init_args: {lr: 4.0e-7}}
    frame_size: [16, 32]
    num_frames: 6
    generator_interval: 1
data:
  class_path: PanWorldData
  init_args: {world: {class_path: PanWorld, init_args: {height: 16, width: 32}}, num_clips: 4, video_frames: 6, clip_frames: 6, batch_size: 2, cache_folder: cache}
trainer: {accelerator: cpu, max_steps: 1, logger: false, enable_progress_bar: false, enable_model_summary: false, limit_val_batches: 0}
"""

ANCHOR = """
import signal
from lightning_adastate.anchors import StaticAnchor

class MyAnchor(StaticAnchor):
    def __init__(self, depth: int = 1) -> None:
        super().__init__(depth)

class InterruptingAnchor(StaticAnchor):
    def commit(self, contents, committed):
        if committed.content.frame_indices[0] == 6:
            signal.raise_signal(signal.SIGINT)
        return contents

class FailingAnchor(StaticAnchor):
    def commit(self, contents, committed):
        if committed.content.frame_indices[0] == 6:
            raise ValueError("the third chunk fails")
        return contents
"""


SAVE = (
    "--trainer.callbacks={class_path: ModelCheckpoint, init_args: {dirpath: ckpt, filename: one}}"
)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty working directory with the base recipe and an anchor of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JSONARGPARSE_DEBUG", raising=False)
    Path("base.yaml").write_text(BASE)
    Path("my_anchors.py").write_text(ANCHOR)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("my_anchors", None)
    return tmp_path


def asked(capsys, *args):
    """The configuration that would run."""
    capsys.readouterr()
    assert main(["fit", "--config=base.yaml", *args, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]


def complaint(capsys, *args, verb="fit"):
    """The one line that a failing run says, without traceback or usage."""
    capsys.readouterr()
    assert main([verb, "--config=base.yaml", *args]) in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if "Seed set" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


# -- a change of class starts from the new class's own defaults -----------------------------------


def test_changing_a_class_on_the_command_line_keeps_no_argument(capsys):
    anchor = asked(capsys, "--model.anchor=StaticAnchor")["anchor"]
    assert anchor["class_path"].endswith("StaticAnchor")
    assert anchor["init_args"] == {"num_frames": 1}


def test_changing_a_class_in_a_later_config_keeps_no_argument(capsys):
    Path("later.yaml").write_text("model: {init_args: {anchor: {class_path: ReplacementAnchor}}}")
    assert asked(capsys, "--config=later.yaml")["anchor"]["init_args"] == {"num_frames": 1}


def test_changing_a_class_to_a_component_file_keeps_no_argument(capsys):
    Path("plain.yaml").write_text("class_path: StaticAnchor\n")
    assert asked(capsys, "--model.anchor=plain.yaml")["anchor"]["init_args"] == {"num_frames": 1}


@pytest.mark.parametrize("how", ["command line", "config"])
def test_changing_a_nested_class_keeps_no_argument(how, capsys):
    name = "my_weighting.Steeper"
    Path("my_weighting.py").write_text(
        "from lightning_adastate.losses import HorizonWeighting\n"
        "class Steeper(HorizonWeighting):\n"
        "    def __init__(self, alpha: float = 5.0) -> None:\n"
        "        super().__init__(alpha)\n"
    )
    Path("later.yaml").write_text(
        f"model: {{init_args: {{loss: {{class_path: DMDLoss, init_args: {{weighting: {name}}}}}}}}}"
    )
    option = f"--model.loss.weighting={name}" if how == "command line" else "--config=later.yaml"
    weighting = asked(capsys, option)["loss"]["init_args"]["weighting"]
    assert weighting["class_path"] == name
    assert weighting["init_args"] == {"alpha": 5.0}


def test_changing_a_class_twice_forgets_what_was_said_between(capsys):
    options = ["--model.anchor=StaticAnchor", "--model.anchor.num_frames=5"]
    anchor = asked(capsys, *options, "--model.anchor=ReplacementAnchor")["anchor"]
    assert anchor["init_args"] == {"num_frames": 1}


def test_changing_the_module_keeps_no_argument(capsys):
    said = complaint(capsys, "--model=FlowMatching")
    assert "backbone" in said


def test_the_same_class_again_keeps_its_arguments(capsys):
    anchor = asked(capsys, "--model.anchor.decay=0.5")["anchor"]
    assert anchor["init_args"] == {"num_frames": 2, "decay": 0.5}
    Path("later.yaml").write_text("model: {init_args: {anchor: {init_args: {decay: 0.7}}}}")
    anchor = asked(capsys, "--config=later.yaml")["anchor"]
    assert anchor["init_args"] == {"num_frames": 2, "decay": 0.7}


def test_other_users_of_the_parser_library_are_left_alone(capsys):
    import jsonargparse._typehints as typehints

    before = typehints.discard_init_args_on_class_path_change
    asked(capsys, "--model.anchor=StaticAnchor")
    complaint(capsys, "--model.anchor=Nothing")
    assert typehints.discard_init_args_on_class_path_change is before


# -- names ------------------------------------------------------------------------------------------


def test_deep_overrides_reach_two_classes_down(capsys):
    loss = asked(capsys, "--model.loss.weighting.alpha=4")["loss"]
    assert loss["init_args"]["weighting"]["init_args"]["alpha"] == 4.0


def test_a_class_of_the_users_own_needs_only_its_path(capsys):
    anchor = asked(capsys, "--model.anchor=my_anchors.MyAnchor", "--model.anchor.depth=3")[
        "anchor"
    ]
    assert anchor == {"class_path": "my_anchors.MyAnchor", "init_args": {"depth": 3}}


def test_help_of_a_component_shows_its_docstring(capsys):
    assert main(["fit", "--config=base.yaml", "--model.anchor.help", "EMAAnchor"]) == 0
    assert "Weight of the old anchor" in capsys.readouterr().out


def test_a_module_loads_from_python_as_from_the_command_line():
    module = load_module("base.yaml", overrides=["--model.anchor=StaticAnchor"])
    assert repr(module.streamer.anchor) == repr(lightning_adastate.StaticAnchor(1))
    assert not hasattr(module, "loss")
    with pytest.raises(ValueError, match="no config 'toy/nothing'"):
        load_module("toy/nothing")
    with pytest.raises(ValueError, match=r"there is no Anchor .*did you mean EMAAnchor\?$"):
        load_module("base.yaml", overrides=["--model.anchor=EMAAnchr"])
    with pytest.raises(ValueError, match=r"^there is no weights file 'none.ckpt'; [^\n]*$"):
        load_module("base.yaml", weights="none.ckpt")


# -- mistakes ---------------------------------------------------------------------------------------

MISTAKES = {
    "class": (
        ["--model.anchor=EMAAnchr"],
        ["'EMAAnchr'", "StaticAnchor", "did you mean EMAAnchor?"],
    ),
    "class in a config": (["--config=class.yaml"], ["'EMAAnchr'", "did you mean EMAAnchor?"]),
    "class of another family": (["--model.anchor=SlidingCache"], ["no Anchor 'SlidingCache'"]),
    "module": (["--model=SelfForcin"], ["did you mean SelfForcing?"]),
    "data": (["--data=PanWorldDate"], ["did you mean PanWorldData?"]),
    "callback": (["--trainer.callbacks+=EarlyStoping"], ["did you mean EarlyStopping?"]),
    "import": (["--model.anchor=nowhere.Mine"], ["'nowhere.Mine'", "No module named"]),
    "argument": (["--model.anchor.decy=1"], ["'decy'", "did you mean decay?"]),
    "option": (["--modle.anchor=EMAAnchor"], ["--modle.anchor", "did you mean --model?"]),
    "type": (["--model.anchor.decay=abc"], ["model.anchor.decay: expected float, got abc"]),
    "optional type": (["--model.cache.window_frames=1.5"], ["expected int, got 1.5"]),
    "choice": (["--model.schedule.sampler=foo"], ["'renoise', 'euler'", "got foo"]),
    "config file": (["--config=toy/adastat"], ["toy/adastat", "did you mean toy/adastate?"]),
    "broken yaml": (["--config=broken.yaml"], ["no valid YAML"]),
    "value": (["--model.anchor.decay=2"], ["`decay` must be in [0, 1), got 2.0"]),
    "window": (["--model.cache.window_frames=2"], ["`window_frames` 2 is smaller than a chunk"]),
    "weights": (["--model.weights=none.safetensors"], ["no weights file 'none.safetensors'"]),
    "corrupt weights": (["--model.weights=corrupt.safetensors"], ["cannot read weights"]),
    "key without anything": (["--config=key.yaml"], ["no option 'modle'; did you mean model?"]),
    "trainer's key": (["--config=trainer.yaml"], ["'trainer.max_step'", "trainer.max_steps?"]),
    "argument without anything": (["--config=argument.yaml"], ["EMAAnchor takes no 'decoy'"]),
    "nested value": (["--model.optimizer.lr=high"], ["optimizer.lr: expected float, got high"]),
    "nested argument": (
        ["--model.optimizer.foo=1"],
        ["model.optimizer: AdamW takes no 'foo'; it"],
    ),
    "infinite number": (
        ["--model.optimizer.lr=.inf"],
        ["optimizer.init_args.lr: expected a finite number, got inf"],
    ),
    "weights as a recipe": (
        ["--config=weights.ckpt"],
        ["'weights.ckpt' holds weights, no configuration", "--ckpt_path"],
    ),
    "recipe of compare": (
        ["--config=toy/compare"],
        ["`anchors` belongs to `compare`; name a recipe of this verb"],
    ),
    "default that is infinite": (
        ["--model.anchor=my_limits.Limited", "--model.anchor.decay=.inf"],
        ["decay: expected a finite number, got inf"],
    ),
    "not a number": (
        ["--model.schedule.shift=.nan"],
        ["schedule.init_args.shift: expected a finite number, got nan"],
    ),
    "abbreviation": (["--generation.fp=3"], ["no option --generation.fp", "--generation.fps?"]),
    "empty config": (["--config=empty.yaml"], ["a config must be a mapping", "got nothing"]),
    "component as recipe": (["--config=anchors/ema"], ["a component's file"]),
    "union": (["--trainer.precision=foo"], ["'16-true'", "got foo"]),
    "trainer": (["--trainer.max_steps=-5"], ["`max_steps` must be"]),
    "optimisation": (["--trainer.gradient_clip_val=1"], ["Automatic gradient clipping"]),
    "checkpoint": (["--ckpt_path=none.ckpt"], ["there is no checkpoint 'none.ckpt'"]),
    "corrupt checkpoint": (["--ckpt_path=corrupt.safetensors"], ["is no checkpoint, or is cut"]),
    "corrupt weights in a checkpoint": (
        ["--model.weights=cut.ckpt"],
        ["no checkpoint, or is cut"],
    ),
    "no last checkpoint": (
        ["--ckpt_path=last"],
        ["`ckpt_path` is last, and there is no checkpoint in"],
    ),
    "weights as checkpoint": (["--ckpt_path=weights.ckpt"], ["use `--model.weights`"]),
    "batch": (["--data.batch_size=9"], ["one batch on each of 1 ranks needs 9"]),
    "cache folder": (["--data.cache_folder=empty.yaml"], ["cannot write into `cache_folder`"]),
    "data value": (["--data.num_clips=0"], ["`num_clips` must be 1 or more, got 0"]),
}


LIMITED = """
from lightning_adastate.anchors import EMAAnchor


class Limited(EMAAnchor):
    def __init__(self, decay: float = 0.9, limit: float = float("inf")) -> None:
        super().__init__(1, decay=decay)
        self.limit = limit
"""


def test_an_authors_own_default_may_be_infinite(capsys):
    Path("my_limits.py").write_text(LIMITED)
    anchor = "--model.anchor=my_limits.Limited"
    assert main(["fit", "--config=base.yaml", anchor]) == 0
    assert "a finite number" in complaint(capsys, anchor, "--model.anchor.limit=-.inf")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake, capsys):
    args, expected = MISTAKES[mistake]
    Path("class.yaml").write_text("model: {init_args: {anchor: {class_path: EMAAnchr}}}")
    Path("broken.yaml").write_text("model: {init_args: [")
    Path("key.yaml").write_text("modle: {}")
    Path("trainer.yaml").write_text("trainer: {max_step: {}}")
    Path("argument.yaml").write_text("model: {init_args: {anchor: {init_args: {decoy: {}}}}}")
    Path("empty.yaml").touch()
    Path("my_limits.py").write_text(LIMITED)
    Path("corrupt.safetensors").write_bytes(b"x" * 100)
    torch.save({"weight": torch.zeros(3)}, "weights.ckpt")
    Path("cut.ckpt").write_bytes(Path("weights.ckpt").read_bytes()[:200])
    said = complaint(capsys, *args)
    assert all(part in said for part in expected), said
    assert not Path("config.yaml").exists(), "a refused run must leave no file"


def test_a_trace_is_shown_when_asked_for(monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "1")
    with pytest.raises(ValueError, match="decay"):
        main(["fit", "--config=base.yaml", "--model.anchor.decay=2"])


def test_a_wrong_verb_names_the_right_one(capsys):
    assert main(["fitt"]) == 2
    assert "did you mean fit?" in capsys.readouterr().err


# -- running ----------------------------------------------------------------------------------------


def test_a_checkpoint_holds_the_config_as_text_and_changes_nothing(capsys):
    assert main(["fit", "--config=base.yaml", SAVE]) == 0
    checkpoint = torch.load("ckpt/one.ckpt", weights_only=True)
    stored = yaml.safe_load(checkpoint["config"])
    assert stored["model"]["init_args"]["anchor"]["init_args"] == {"num_frames": 2, "decay": 0.9}
    assert "hyper_parameters" not in checkpoint
    other = ["--ckpt_path=ckpt/one.ckpt", "--model.anchor=my_anchors.FailingAnchor"]
    capsys.readouterr()
    assert main(["generate", "--config=base.yaml", *other, "--generation.prompts=a word"]) == 1
    stopped, error = capsys.readouterr().err.splitlines()[-2:]
    assert stopped.startswith("stopped after chunk 2 of ")
    assert "the third chunk fails" in error, "the anchor of the command line must run"


def test_another_stages_checkpoint_is_refused_before_anything_is_built(capsys):
    assert main(["fit", "--config=base.yaml", SAVE]) == 0
    stage = Path("stage.yaml")
    model = {**yaml.safe_load(BASE)["model"], "class_path": "CausalFlowMatching"}
    known = (
        "backbone",
        "anchor",
        "cache",
        "schedule",
        "codec",
        "text_encoder",
        "optimizer",
        "frame_size",
    )
    model["init_args"] = {key: model["init_args"][key] for key in known}
    model["init_args"]["loss"] = {"class_path": "FlowMatchingLoss"}
    stage.write_text(yaml.safe_dump({**yaml.safe_load(BASE), "model": model}))
    said = complaint(capsys, "--config=stage.yaml", "--ckpt_path=ckpt/one.ckpt")
    assert "is of the stage SelfForcing, not of CausalFlowMatching" in said
    assert "`model.weights`" in said
    assert main(["fit", "--config=stage.yaml", "--model.weights=ckpt/one.ckpt"]) == 0


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_last_is_the_runs_own_newest_checkpoint_for_every_verb(verb, capsys):
    own = ["--config=base.yaml", SAVE, "--trainer.limit_val_batches=1"]
    assert main(["fit", *own]) == 0
    capsys.readouterr()
    assert main([verb, *own, "--ckpt_path=last", "--trainer.max_steps=2"]) == 0
    assert "going on from ckpt/one.ckpt" in capsys.readouterr().err
    assert main([verb, *own, "--ckpt_path=last", "--model.anchor.decay=0.5"]) == 1
    assert "init_args.anchor.init_args.decay = 0.9, not 0.5" in capsys.readouterr().err


def test_no_epoch_minus_two(capsys):
    assert main(["fit", "--config=base.yaml", "--trainer.enable_progress_bar=true"]) == 0
    said = capsys.readouterr().out
    assert "Epoch 0" in said
    assert "/-2" not in said


def test_a_fit_without_checkpoints_says_so(capsys):
    assert main(["fit", "--config=base.yaml", "--trainer.enable_checkpointing=false"]) == 0
    assert "no checkpoint was written" in capsys.readouterr().out


STOPPING = """
import os, signal
from lightning.pytorch import Callback

class Stop(Callback):
    def __init__(self, number: int, when: str) -> None:
        self.number, self.when = number, when

    def on_train_batch_end(self, *args):
        if self.when == "training":
            os.kill(os.getpid(), self.number)

    def on_fit_start(self, *args):
        if self.when == "before":
            os.kill(os.getpid(), self.number)
"""


@pytest.fixture
def python_s_own_handlers():
    """What a new process in the foreground has; a background job begins with SIGINT ignored."""
    before = {number: signal.signal(number, default) for number, default in DEFAULTS.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("python_s_own_handlers")
@pytest.mark.parametrize("number", [2, 15])
@pytest.mark.parametrize("when", ["training", "before"])
def test_a_stopped_fit_has_the_signals_exit_code_and_says_how_to_go_on(
    number, when, capsys, caplog
):
    Path("my_stop.py").write_text(STOPPING)
    stop = f"{{class_path: my_stop.Stop, init_args: {{number: {number}, when: {when}}}}}"
    given = [f"--trainer.callbacks=[{stop}]", "--trainer.max_steps=4"]
    assert main(["fit", "--config=base.yaml", *given]) == 128 + number
    said = capsys.readouterr()
    if when == "before":
        assert "No checkpoint was written yet" in said.err
        return
    assert "resume with --ckpt_path" in caplog.text
    assert "written to" not in said.out
    assert list(Path().rglob("stopped.ckpt"))
    assert "weights_only" not in caplog.text


SWALLOWS = """
import signal, sys
from importlib.abc import MetaPathFinder

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins with it ignored

class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {name!r}:
            try:
                signal.raise_signal({number})
            except BaseException:
                pass  # as libraries do that try an import

sys.meta_path.insert(0, Finder())
from lightning_adastate.__main__ import MODEL_VERBS, READER_GONE, SMALL_VERBS, main
sys.exit(main(["fit", "--config=base.yaml"]))
"""


@pytest.mark.parametrize(
    ("number", "name"),
    [pytest.param(2, "jsonargparse", marks=pytest.mark.slow), (15, "lightning")],
)
def test_a_signal_while_imports_run_ends_the_process_in_one_line(number, name):
    done = in_own_process("-c", SWALLOWS.format(number=number, name=name))
    assert done.returncode == 128 + number
    assert done.stderr.startswith("stopped by SIG")
    assert done.stderr.count("\n") == 1


def in_own_process(*args, **options):
    """Run Python with this checkout."""
    root = str(Path(lightning_adastate.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        [sys.executable, *args], text=True, env=environment, check=False, **streams
    )


@pytest.mark.parametrize(
    "verb",
    ["", *(pytest.param(verb, marks=pytest.mark.slow) for verb in [*MODEL_VERBS, *SMALL_VERBS])],
)
def test_a_reader_that_leaves_is_no_trace(verb):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        words = ["-m", "lightning_adastate", *verb.split(), "--help"]
        done = in_own_process(*words, stdout=writing)
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode in (0, READER_GONE)  # of long helps argparse itself forgets the error


def test_help_and_version_need_neither_torch_nor_lightning():
    code = (
        "import sys; from lightning_adastate.__main__ import main; main(['--version']); main(['--help']);"
        "print([name for name in ('torch', 'lightning', 'jsonargparse') if name in sys.modules])"
    )
    root = str(Path(lightning_adastate.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    lines = done.stdout.splitlines()
    assert lines[0] == lightning_adastate.__version__
    assert any("generate" in line for line in lines)
    assert lines[-1] == "[]"


def test_a_first_use_imports_a_public_name():
    with pytest.raises(AttributeError, match="attribute Nothing"):
        _ = lightning_adastate.Nothing
    assert "StaticAnchor" in dir(lightning_adastate)
