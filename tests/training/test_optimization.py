"""Learning rates and clipping against hand numbers, and any torch optimiser by its name."""

from functools import partial

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LinearLR, ReduceLROnPlateau
from training_toy import ClipData, flow_matching, self_forcing, trainer

from lightning_adastate.recipes.loading import import_families, recipe_parser
from lightning_adastate.training import WarmupDecay
from lightning_adastate.training.optimization import build_optimizer, clip_gradients, gradient_norm
from lightning_adastate.training.randomness import fold_seed, generator_of


def optimizer(lr=1.0, **options):
    weight = torch.nn.Parameter(torch.zeros(2))
    built = build_optimizer([weight], partial(SGD, lr=lr), partial(WarmupDecay, **options))
    return built["optimizer"], built["lr_scheduler"]


def rates(steps, **options):
    built, schedule = optimizer(**options)
    found = []
    for _ in range(max(steps) + 1):
        found.append(round(built.param_groups[0]["lr"], 6))
        built.step()
        schedule.step()
    return [found[step] for step in steps]


def test_the_learning_rate_rises_and_falls_as_told():
    linear = {"warmup_steps": 3, "decay": "linear", "decay_steps": 13}
    assert rates(range(4), **linear) == [0.25, 0.5, 0.75, 1.0]
    assert rates((8, 13, 99), **linear) == [0.55, 0.1, 0.1]
    cosine = {"decay": "cosine", "decay_steps": 10, "final_lr_fraction": 0.0}
    assert rates((0, 5, 10, 30), **cosine) == [1.0, 0.5, 0.0, 0.0]
    assert rates((0, 99), lr=0.5) == [0.5, 0.5]


def test_the_warm_up_is_torchs_linear_one():
    built = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs, found = LinearLR(built, start_factor=1 / 4, total_iters=3), []
    for _ in range(5):
        found.append(round(built.param_groups[0]["lr"], 6))
        built.step()
        theirs.step()
    assert found == rates(range(5), warmup_steps=3)


def test_a_resumed_schedule_follows_the_rates_it_is_configured_with():
    built, schedule = optimizer(decay="linear", decay_steps=10)
    for _ in range(5):
        built.step()
        schedule.step()
    other, resumed = optimizer(lr=2.0, decay="linear", decay_steps=20, final_lr_fraction=0.0)
    other.load_state_dict(built.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    assert other.param_groups[0]["lr"] == pytest.approx(1.5)
    other.step()
    resumed.step()
    assert other.param_groups[0]["lr"] == pytest.approx(1.4)


def test_gradients_are_clipped_to_the_norm():
    weight = torch.nn.Parameter(torch.zeros(2))
    built = SGD([weight], lr=1.0)
    weight.grad = torch.tensor([3.0, 4.0])
    assert gradient_norm(built).item() == pytest.approx(5.0)
    clip_gradients(built, 1.0, gradient_norm(built))
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8]), atol=1e-5, rtol=0)
    weight.grad = torch.tensor([3.0, 4.0])
    clip_gradients(built, None, gradient_norm(built))
    assert weight.grad.tolist() == [3.0, 4.0]


def test_frozen_parameters_are_left_out():
    frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    live = torch.nn.Parameter(torch.zeros(1))
    groups = build_optimizer([frozen, live], AdamW)["optimizer"].param_groups
    assert len(groups[0]["params"]) == 1
    assert groups[0]["params"][0] is live


def test_each_network_follows_its_own_schedule(tmp_path):
    model = self_forcing(
        critic_warmup=1,
        optimizer=partial(SGD, lr=1.0),
        lr_scheduler=partial(LinearLR, start_factor=1.0, end_factor=0.5, total_iters=5),
        critic_optimizer=partial(AdamW, lr=1.0),
        critic_lr_scheduler=partial(WarmupDecay, warmup_steps=9),
    )
    trainer(tmp_path).fit(model, ClipData(8, val_count=0))
    generator, critic = model.optimizers(use_pl_optimizer=False)
    assert (type(generator), type(critic)) == (SGD, AdamW)
    assert model.global_step == 2
    assert generator.param_groups[0]["lr"] == pytest.approx(0.8)  # two of five steps to a half
    assert critic.param_groups[0]["lr"] == pytest.approx(0.5)  # four batches, the warm-up included


def test_any_optimiser_and_schedule_of_torch_is_named_on_the_command_line():
    import_families()
    parser = recipe_parser(exit_on_error=False)
    asked = parser.parse_args(
        [
            "--config=configs/toy/adastate.yaml",
            "--model.critic_optimizer.lr=0.25",
            "--model.optimizer=SGD",
            "--model.optimizer.lr=0.5",
            "--model.lr_scheduler=CosineAnnealingLR",
            "--model.lr_scheduler.T_max=7",
        ]
    ).model.init_args
    assert asked.optimizer.class_path == "torch.optim.SGD"
    assert asked.optimizer.init_args.lr == 0.5
    assert asked.lr_scheduler.init_args.T_max == 7
    assert asked.critic_optimizer.class_path == "torch.optim.AdamW"
    assert asked.critic_optimizer.init_args.lr == 0.25
    assert list(asked.critic_optimizer.init_args.betas) == [0.9, 0.99]


def test_bad_options_are_refused():
    with pytest.raises(
        ValueError, match="`decay` linear needs `decay_steps` of 1 or more, got None"
    ):
        optimizer(decay="linear")
    with pytest.raises(ValueError, match="got ReduceLROnPlateau, which waits for a metric"):
        build_optimizer([torch.nn.Parameter(torch.zeros(1))], AdamW, ReduceLROnPlateau)
    with pytest.raises(ValueError, match="`clip_norm` must be positive or null, got 0"):
        flow_matching(clip_norm=0.0)


def test_seeds_differ_in_every_part_and_fit_a_generator():
    seeds = {fold_seed(a, b, c) for a in range(4) for b in range(4) for c in ("x", "y")}
    assert len(seeds) == 32
    assert fold_seed(1, 23) != fold_seed(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)
    first, second = (torch.rand(3, generator=generator_of(0, "x")) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("lr", [0.0, -1e-3, float("nan")])
def test_a_learning_rate_that_learns_nothing_is_refused(lr):
    parameters = [torch.nn.Parameter(torch.ones(1))]
    with pytest.raises(ValueError, match=r"lr|learning rate"):
        build_optimizer(parameters, partial(torch.optim.AdamW, lr=lr))
