"""Learning rates and clipping against hand numbers."""

import pytest
import torch

from lightning_adastate.training import Optimization
from lightning_adastate.training.randomness import fold_seed, generator_of


def rates(optimization, steps):
    return [round(optimization.lr_at(step), 6) for step in steps]


def test_the_learning_rate_rises_and_falls_as_told():
    linear = Optimization(1.0, warmup_steps=3, decay="linear", decay_steps=13)
    assert rates(linear, range(4)) == [0.25, 0.5, 0.75, 1.0]
    assert rates(linear, (8, 13, 99)) == [0.55, 0.1, 0.1]
    cosine = Optimization(1.0, decay="cosine", decay_steps=10, final_lr_fraction=0.0)
    assert rates(cosine, (0, 5, 10)) == [1.0, 0.5, 0.0]
    assert rates(Optimization(0.5), (0, 10**6)) == [0.5, 0.5]


def test_preparing_sets_the_rate_and_clips_to_the_norm():
    weight = torch.nn.Parameter(torch.zeros(2))
    plan = Optimization(1.0, clip_norm=1.0, decay="linear", decay_steps=10)
    optimizer = plan.build([weight])
    weight.grad = torch.tensor([3.0, 4.0])
    norm = plan.prepare(optimizer, 5)
    assert norm.item() == pytest.approx(5.0)
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8]), atol=1e-5, rtol=0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.55)
    weight.grad = torch.tensor([3.0, 4.0])
    Optimization(clip_norm=None).prepare(optimizer, 0)
    assert weight.grad.tolist() == [3.0, 4.0]


def test_frozen_parameters_are_left_out():
    frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    live = torch.nn.Parameter(torch.zeros(1))
    groups = Optimization().build([frozen, live]).param_groups
    assert len(groups[0]["params"]) == 1
    assert groups[0]["params"][0] is live


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "`lr` must be positive, got 0"),
        ({"clip_norm": 0.0}, "`clip_norm` must be positive or null, got 0"),
        ({"decay": "linear"}, "`decay` linear needs `decay_steps` of 1 or more, got None"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Optimization(**options)


def test_seeds_differ_in_every_part_and_fit_a_generator():
    seeds = {fold_seed(a, b, c) for a in range(4) for b in range(4) for c in ("x", "y")}
    assert len(seeds) == 32
    assert fold_seed(1, 23) != fold_seed(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)
    first, second = (torch.rand(3, generator=generator_of(0, "x")) for _ in range(2))
    assert torch.equal(first, second)
