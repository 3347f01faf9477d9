"""doctor says what is there, what a recipe would do, and what to do; wrong numbers are an exit code."""

from dataclasses import replace

import pytest
import torch

from lightning_adastate.cli import doctor as verb
from lightning_adastate.doctor.kernels import KernelReport, try_kernels
from lightning_adastate.doctor.machine import Machine
from lightning_adastate.doctor.recipe import recipe_paths
from lightning_adastate.doctor.report import describe, remedies
from lightning_adastate.recipes.loading import import_families, recipe_parser
from lightning_adastate.recipes.names import recipe_arguments
from lightning_adastate.streaming.speed import DeviceFacts

CPU = torch.device("cpu")
H200 = DeviceFacts("cuda", "NVIDIA H200", (9, 0), has_triton=True)
CARD = Machine({"torch": "2.11.0"}, "13.0", H200, 10**11, 15 * 10**10)
HOST = Machine({"torch": "2.13.0+cpu"}, None, DeviceFacts("cpu"), None, None)


def paths(facts, *overrides, speed="auto"):
    """What the paper's recipe would do."""
    import_families()
    parser = recipe_parser(exit_on_error=False)
    asked = parser.parse_args(recipe_arguments("wan1.3b/adastate", overrides))
    return recipe_paths(parser, asked, facts, speed)


def test_pytorchs_kernel_is_near_float64_here_and_what_is_missing_says_why():
    found = {one.name: one for one in try_kernels(CPU)}
    assert found.keys() == {"sdpa", "cudnn", "flash", "flash3", "flex"}
    assert 0 < found["sdpa"].difference < 1e-5
    assert not any(one.is_wrong for one in found.values())
    assert "compiled first" in found["flex"].missing


@pytest.mark.parametrize("difference", [0.5, float("nan")])
def test_a_kernel_with_other_numbers_is_wrong_and_named_first(difference):
    wrong = KernelReport("flash", None, difference, 2e-2)
    assert wrong.is_wrong
    assert remedies(HOST, [wrong], None)[0].startswith("do not use `attention: flash`")
    assert KernelReport("flash", failure="no kernel image").is_wrong
    assert not KernelReport("flash", None, 1e-3, 2e-2).is_wrong


def test_wrong_numbers_are_an_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(verb, "try_kernels", lambda device: [KernelReport("sdpa", None, 1.0, 0.1)])
    assert verb.main([]) == 1
    assert "set `attention: sdpa`" in capsys.readouterr().out
    monkeypatch.setattr(verb, "try_kernels", lambda device: [])
    assert verb.main([]) == 0


@pytest.fixture(scope="module")
def on_card():
    return paths(H200, "--trainer.precision=bf16-true")


def test_the_papers_recipe_takes_the_fast_paths_of_a_card(on_card):
    choices = {name: choice.taken for name, choice in on_card.plan.choices().items()}
    assert (
        choices.pop("cuda_graphs") is False
    )  # 1.3B at 480 x 832 works longer than it is launched
    assert all(choices.values())
    assert on_card.codec == "WanCodec, path fast"
    text = "\n".join(describe(CARD, [], on_card))
    assert "compile blocks: yes (the card and Triton are there)" in text
    assert "100.0 of 150.0 GB are free" in text
    assert "bf16-true`" not in text


def test_what_keeps_a_recipe_slow_is_what_to_do(on_card):
    mixed = replace(on_card, precision="bf16-mixed")
    (said,) = [line for line in remedies(CARD, [], mixed) if "trainer.precision" in line]
    assert "give `--trainer.precision bf16-true`" in said
    lame = replace(CARD, facts=replace(H200, has_triton=False))
    assert "nothing can be compiled: pip install triton" in remedies(lame, [], None)
    assert any("diffusers" in line for line in remedies(CARD, [], on_card))
    assert any(
        "CUDA_VISIBLE_DEVICES" in s for s in remedies(replace(HOST, cuda_build="13.0"), [], None)
    )


def test_plain_takes_nothing_in_the_same_recipe():
    plain = paths(H200, speed="plain")
    assert not any(choice.taken for choice in plain.plan.choices().values())
    assert plain.kernel == "sdpa"
