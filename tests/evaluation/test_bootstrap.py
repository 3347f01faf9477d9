import pytest
import torch

from lightning_adastate.evaluation.bootstrap import (
    mean_bootstrap,
    paired_bootstrap,
    unpaired_bootstrap,
)


def test_the_interval_is_that_of_the_mean_of_paired_differences():
    generator = torch.Generator().manual_seed(1)
    control = 10.0 * torch.randn(400, generator=generator)
    treated = control + 0.5 + torch.randn(400, generator=generator)
    found = paired_bootstrap(treated, control)
    # standard error 1 / 20; unpaired it would be 14 times as wide
    assert found.mean == pytest.approx(0.5, abs=0.15)
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.1)
    assert found.low < found.mean < found.high


def test_the_same_seed_gives_the_same_interval_and_no_global_draw():
    before = torch.random.get_rng_state()
    values = torch.arange(10.0)
    zero = torch.zeros(10)
    assert paired_bootstrap(values, zero) == paired_bootstrap(values, zero)
    assert paired_bootstrap(values, zero, seed=1) != paired_bootstrap(values, zero)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_episodes_without_a_value_are_left_out():
    nan = float("nan")
    found = paired_bootstrap(
        torch.tensor([1.0, nan, 3.0, 5.0]), torch.tensor([0.0, 0.0, 0.0, nan])
    )
    assert found.mean == 2.0


def test_arms_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="two arms of equal length"):
        paired_bootstrap(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="2 or more episodes, got 1"):
        paired_bootstrap(torch.zeros(1), torch.zeros(1))


def test_unpaired_arms_may_differ_in_length_and_are_wider():
    generator = torch.Generator().manual_seed(1)
    control = 3.0 * torch.randn(300, generator=generator)
    treated = 3.0 * torch.randn(200, generator=generator) + 1.0
    found = unpaired_bootstrap(treated, control)
    assert found.mean == pytest.approx((treated.mean() - control.mean()).item(), abs=1e-6)
    expected = 2 * 1.96 * 3.0 * (1 / 300 + 1 / 200) ** 0.5
    assert found.high - found.low == pytest.approx(expected, rel=0.15)


def test_the_interval_of_a_mean_leaves_nan_out():
    values = torch.tensor([1.0, float("nan"), 3.0, 2.0])
    assert mean_bootstrap(values).mean == 2.0
    with pytest.raises(ValueError, match="expected 2 or more episodes, got 1"):
        mean_bootstrap(values[:2])
