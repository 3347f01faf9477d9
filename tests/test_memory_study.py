"""The study's order, on the shipped weights: static freezes and keeps, none moves and forgets, adaptive moves and keeps."""

import pytest
import torch

from lightning_adastate.recipes.comparison import load_comparison

SEED = 77
"""Neither the study's nor that of any tuning."""


@pytest.fixture(scope="module")
def scores():
    comparison = load_comparison(
        "toy/memory", ["--episodes=24", "--horizons=[126]", f"--seed={SEED}", "--swap_after=4"]
    )
    arms = comparison.run().arms
    return arms, {name: arm.scores[126] for name, arm in arms.items()}


def mean(values):
    return float(values.double().nanmean())


def pooled(arm):
    """Share of all hides of an arm after which the hero was the same."""
    kept = [one.kept for cycles in arm.cycles for one in cycles]
    return sum(kept) / len(kept)


@pytest.mark.slow
def test_the_static_anchor_freezes_the_scene_and_keeps_the_hero(scores):
    _, found = scores
    assert mean(found["static"].displacement) < 0.5 * mean(found["none"].displacement)
    assert mean(found["static"].id_bias) < 0.5 * mean(found["none"].id_bias)


@pytest.mark.slow
def test_the_adaptive_anchor_keeps_the_hero_at_the_motion_of_no_anchor(scores):
    arms, found = scores
    assert pooled(arms["adaptive"]) > pooled(arms["none"]) + 0.3
    assert mean(found["adaptive"].id_bias) < 0.75 * mean(found["none"].id_bias)
    assert mean(found["adaptive"].displacement) > 0.85 * mean(found["none"].displacement)


@pytest.mark.slow
def test_the_state_keeps_what_it_held_through_a_hide(scores):
    arms, _ = scores
    assert arms["adaptive"].swap.hero.donor > 0.3
    assert abs(arms["none"].swap.hero.donor) < 0.3
    assert torch.tensor([each.keep for each in arms["static"].swap.readings]).min() > 0.999
