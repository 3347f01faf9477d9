"""A stage's constructor forwards to its parents' without losing an argument on the way."""

import inspect

import pytest
from training_toy import causal, flow_matching, self_forcing

from lightning_adastate.cli.main import CLI
from lightning_adastate.recipes.loading import load_module
from lightning_adastate.training import StreamModule

STREAM = {name for name in inspect.signature(StreamModule).parameters}


@pytest.mark.parametrize("stage", ["SelfForcing", "FlowMatching", "ODERegression"])
def test_help_lists_the_arguments_of_all_parents(stage, capsys):
    with pytest.raises(SystemExit):
        CLI(["fit", f"--model.help={stage}"])
    told = capsys.readouterr().out
    for name in (*STREAM, "accumulate", "seed"):
        assert f"--model.{name} " in told
    assert "Prompts to embeddings; frozen." in " ".join(told.split())


@pytest.mark.parametrize("build", [self_forcing, flow_matching, causal])
def test_a_misspelt_argument_is_refused_from_python(build):
    with pytest.raises(TypeError, match="unexpected keyword argument 'frame_sise'"):
        build(frame_sise=(4, 6))


def test_a_misspelt_argument_is_refused_in_one_sentence_that_knows_the_parents():
    with pytest.raises(
        ValueError, match="no 'acumulate'; it takes backbone, .*mean accumulate"
    ) as error:
        load_module("toy/adastate", overrides=["--model.acumulate=2"])
    for name in STREAM:
        assert f" {name}" in str(error.value)
    assert "kwargs" not in str(error.value)
