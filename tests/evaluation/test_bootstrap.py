import pytest
import torch

from lightning_adastate.evaluation.bootstrap import (
    mean_bootstrap,
    paired_bootstrap,
    seed_bootstrap,
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


def test_an_additive_table_has_the_interval_of_its_closed_form():
    """Seeds' and episodes' own parts add up: the mean's variance is var(a) / S + var(b) / E."""
    generator = torch.Generator().manual_seed(3)
    seeds = torch.randn(12, generator=generator, dtype=torch.float64)
    episodes = torch.randn(80, generator=generator, dtype=torch.float64)
    table = seeds[:, None] + episodes
    found = seed_bootstrap(table, num_resamples=20_000)
    deviation = (seeds.var() / 12 + episodes.var(correction=0) / 80).sqrt()
    assert found.mean == pytest.approx(float(table.mean()))
    assert found.high - found.low == pytest.approx(2 * 1.96 * float(deviation), rel=0.05)


def test_seeds_that_differ_widen_the_interval_and_seeds_that_agree_do_not():
    generator = torch.Generator().manual_seed(4)
    episodes = torch.randn(64, generator=generator, dtype=torch.float64)
    alone = seed_bootstrap(episodes[None])
    agreeing = seed_bootstrap(episodes.expand(5, 64))
    differing = seed_bootstrap(episodes + torch.linspace(-1, 1, 5)[:, None])
    assert (alone.low, alone.high) == pytest.approx((agreeing.low, agreeing.high))
    assert differing.high - differing.low > 2 * (alone.high - alone.low)


def test_an_episode_is_drawn_for_all_seeds_at_once():
    """Hard and easy episodes are the same for all seeds: more seeds cannot average them away."""
    table = torch.arange(40.0).expand(8, 40)
    width = seed_bootstrap(table)
    one = mean_bootstrap(table[0])
    assert width.high - width.low == pytest.approx(one.high - one.low, rel=0.05)


def test_two_seeds_spread_as_their_variance_says():
    """a = -1, 1 in every episode: the mean's deviation is 1; resampling alone would show 0.71."""
    table = torch.tensor([[-1.0], [1.0]]).expand(2, 10)
    found = seed_bootstrap(table)
    assert (found.low, found.high) == pytest.approx((-(2**0.5), 2**0.5))


def test_missing_scores_are_left_out_and_seeds_still_count_the_same():
    nan = float("nan")
    found = seed_bootstrap(torch.tensor([[1.0, 1.0, nan, nan], [3.0, 3.0, 3.0, 3.0]]))
    assert found.mean == pytest.approx(2.0)
    with pytest.raises(ValueError, match="2 or more episodes"):
        seed_bootstrap(torch.full((2, 3), nan))
    with pytest.raises(ValueError, match="seeds and episodes"):
        seed_bootstrap(torch.ones(4))
