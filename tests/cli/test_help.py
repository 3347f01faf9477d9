"""The help of a verb fits on one screen, what the verb is about first; `--help_all` has the rest."""

import pytest

from lightning_adastate.__main__ import SMALL_VERBS, main
from lightning_adastate.recipes.help_text import LINES, OptionGroup, OptionHelp, short_help


def shown(capsys, *args):
    assert main(args) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "verb",
    [
        "generate",
        "fit",
        *(pytest.param(v, marks=pytest.mark.slow) for v in ("validate", "test", "predict")),
        *(pytest.param(v, marks=pytest.mark.slow) for v in SMALL_VERBS),
    ],
)
def test_a_help_is_one_screen(verb, capsys):
    lines = shown(capsys, verb, "--help")
    assert len(lines) <= LINES
    assert lines[0].startswith(f"usage: lightning_adastate {verb}")


def test_the_options_of_generate_come_first_and_the_trainers_last(capsys):
    lines = shown(capsys, "generate", "--help")
    options = [line.split()[0] for line in lines if line.startswith("  -")]
    assert options[1] == "--generation.prompts"
    assert options[-1] == "--trainer.*"
    assert sum(option.startswith("--trainer") for option in options) == 1


def test_help_all_shows_every_option_the_trainers_last(capsys):
    lines = shown(capsys, "generate", "--help_all")
    options = [line.split()[0] for line in lines if line.startswith("  --")]
    assert "--trainer.accumulate_grad_batches" in options
    first = next(i for i, option in enumerate(options) if option.startswith("--trainer."))
    ours = [
        i for i, option in enumerate(options) if option.startswith(("--generation", "--model"))
    ]
    assert max(ours) < first


def test_the_arguments_of_a_class_are_shown_whole(capsys):
    lines = shown(capsys, "fit", "--model.help", "SelfForcing")
    assert any(line.startswith("  --model.rollouts") for line in lines)
    assert not any(line.startswith("shown by") or "--help_all" in line for line in lines)
    assert len(lines) > LINES


def test_the_largest_groups_are_left_out_until_the_rest_fits():
    groups = [
        OptionGroup(
            key, key, tuple(OptionHelp(f"--{key}.{i}", "", "") for i in range(count)), False
        )
        for key, count in (("generation", 30), ("model", 12), ("data", 25))
    ]
    text = short_help("lightning_adastate generate", [], "Make.", groups)
    assert text.count("--generation.") == 30
    assert "--data.*" in text
    assert text.count("--model.") == 12
    assert text.count("\n") <= LINES
