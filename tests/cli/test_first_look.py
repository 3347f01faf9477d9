"""A misspelt verb, option, file or key is answered from the text, before torch or Lightning is imported."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_adastate
from lightning_adastate.__main__ import MODEL_VERBS, main
from lightning_adastate.recipes.first_look import OPTIONS, check_first_look
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.recipes.private_hooks import option_strings, subcommand_parser

ROOT = Path(lightning_adastate.__file__).parent.parent
GENERAL = {"h", "help", "help_all", "c", "print_shtab"}

MISTAKES = {
    "convret": "there is no verb 'convret'",
    "fit --modle.anchor=EMAAnchor": "there is no option --modle.anchor; did you mean --model?",
    "fit --config toy/no_such": "there is no config file 'toy/no_such'",
    "fit --config=toy/no_such": "there is no config file 'toy/no_such'",
    "fit --config misspelt.yaml": "there is no option 'modle'; did you mean model?",
    "fit --config grids/anchors": "`recipe` belongs to `ablate`",
    "replay --config toy/adastate": "there is no option 'data'",
    "evaluate a.mp4 --chunk_frame 3": "there is no option --chunk_frame; did you mean --chunk_frames?",
}

ASK = """
import contextlib, io, json, sys
from lightning_adastate.__main__ import main
said = {}
for line in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as text:
        code = main(line.split())
    said[line] = [code, text.getvalue()]
print(json.dumps([said, [n for n in ("torch", "lightning", "jsonargparse") if n in sys.modules]]))
"""


def in_own_process(code, *args, cwd):
    """What Python prints with this checkout."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_mistake_in_the_text_is_answered_before_torch_is_imported(tmp_path):
    (tmp_path / "misspelt.yaml").write_text("modle: {}\ntrainer.callbacks+: []\n")
    said, imported = in_own_process(ASK, json.dumps(list(MISTAKES)), cwd=tmp_path)
    assert imported == []
    for line, wanted in MISTAKES.items():
        code, text = said[line]
        assert code == 2
        assert text.startswith(f"error: {wanted}")
        assert text.count("\n") == 1


def verb_module(verb):
    return "main" if verb in MODEL_VERBS else verb


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(v, marks=[pytest.mark.slow] if v in MODEL_VERBS and v != "generate" else [])
        for v in OPTIONS
    ],
)
def test_the_options_looked_for_are_those_of_the_parser(verb, monkeypatch):
    found = []

    def stop(parser, *args, **kwargs):
        found.append(parser)
        raise SystemExit(0)

    monkeypatch.setattr(SentenceParser, "parse_args", stop)
    module = importlib.import_module(f"lightning_adastate.cli.{verb_module(verb)}")
    with pytest.raises(SystemExit):
        module.run([verb]) if verb in MODEL_VERBS else module.main([])
    options = option_strings(subcommand_parser(found[0], verb))
    heads = {option.lstrip("-").split(".")[0].rstrip("+") for option in options}
    assert heads - GENERAL == set(OPTIONS[verb])


@pytest.mark.parametrize(
    "line",
    [
        ["fit", "--config", "toy/adastate", "--trainer.callbacks+=StreamMetrics"],
        ["fit", "--config", "{model: {class_path: SelfForcing}}"],  # the configuration itself
        ["fit", "--config", "toy/no_such", "--help"],
        ["convert", "a.pt", "--", "--odd-name"],
        ["layout", "--config", "toy/compare"],  # takes the parts it knows
        ["of_a_plugin", "--anything"],
    ],
)
def test_what_may_be_right_is_left_to_the_parser(line):
    check_first_look(line[0], line[1:])


def test_a_trace_asked_for_is_the_parsers(monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "1")
    with pytest.raises(Exception, match="unrecognized arguments|tpo"):
        main(["convert", "a", "b", "--tpo", "wan"])


HEAVY = ("lightning", "transformers", "matplotlib", "pandas", "torchmetrics", "diffusers", "scipy")
HEAVY += ("torchdata", "sympy", "torch.distributed.tensor", "peft")

IMPORTS = f"""
import contextlib, io, json, sys
from lightning_adastate.__main__ import main
found = {{}}
for verb in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()):
        main([verb, "--help"])
    found[verb] = [name for name in {HEAVY} if name in sys.modules]
print(json.dumps(found))
"""


@pytest.mark.slow  # three seconds: a process that imports torch
def test_verbs_without_a_recipe_import_nothing_heavy(tmp_path):
    found = in_own_process(IMPORTS, "convert", "replay", "evaluate", "layout", cwd=tmp_path)
    assert found == {verb: [] for verb in found}
