"""Diagonal Distillation's schedule and ablations as configurations: the toy streams with each, pass by pass."""

import pytest
import torch

from lightning_adastate import load_module
from lightning_adastate.losses import MotionDMDLoss
from lightning_adastate.recipes.recipe import load_recipe
from lightning_adastate.streaming.observer import StepObserver


class Watch(StepObserver):
    """Writes down the timestep of the content in every pass."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_pass(self, context, reads, timesteps, output):
        self.seen.append(round(timesteps[-1]))


def streamed(*overrides, num_chunks=5):
    """Stream five chunks, and return the timesteps of the passes of each."""
    module = load_module("toy/diagonal", overrides=overrides, weights="toy/generator.safetensors")
    state, passes = module.open_stream(["drifting west"]), []
    for _ in range(num_chunks):
        watch = Watch()
        with torch.no_grad():
            chunk = module.streamer.step(state, observer=watch)
        assert chunk.latents_BFCHW.isfinite().all()
        state = chunk.state
        passes.append(watch.seen)
    return passes


FIVE, FOUR, THREE, TWO = (
    [1000, 775, 550, 325, 100],
    [1000, 700, 400, 100],
    [1000, 550, 100],
    [1000, 100],
)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["--model.schedule=schedules/diagonal", "--model.schedule.shift=1"],
            [FIVE, FOUR, THREE, TWO, TWO],
        ),
        (["--config=ablations/diagonal_5432"], [FIVE, FOUR, THREE, TWO, TWO]),
        (["--config=ablations/diagonal_uniform"], [FOUR] * 5),
        (
            ["--config=ablations/diagonal_5432", "--config=ablations/diagonal_clean"],
            [[*steps, 0] for steps in (FIVE, FOUR, THREE, TWO, TWO)],
        ),
        (
            ["--config=ablations/diagonal_5432", "--config=ablations/diagonal_renoised"],
            [[*steps, 100] for steps in (FIVE, FOUR, THREE, TWO, TWO)],
        ),
    ],
    ids=["schedule", "5432", "uniform", "clean", "renoised"],
)
def test_the_toy_streams_with_every_schedule_of_the_ablation(overrides, expected):
    assert streamed(*overrides) == expected


def test_seven_chunks_of_the_paper_are_twenty_passes_and_its_last_level_is_357_at_shift_five():
    passes = streamed("--model.schedule=schedules/diagonal", num_chunks=7)
    assert sum(map(len, passes)) == 20
    assert [steps[-1] for steps in passes] == [357] * 7


def test_without_the_motion_term_the_loss_is_dmd_alone():
    recipe = load_recipe("toy/diagonal", overrides=["--config=ablations/diagonal_no_motion"])
    loss = recipe.module.loss
    assert isinstance(loss, MotionDMDLoss)
    assert loss.motion_weight == 0.0
    assert load_recipe("toy/diagonal").module.loss.motion_weight == 0.2
