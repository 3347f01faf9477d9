"""Flow-matching loss against hand numbers."""

import pytest
import torch

from lightning_adastate.losses import FlowMatchingLoss


def test_the_mean_is_over_frames_that_carry_loss():
    loss = FlowMatchingLoss(1.0)
    velocity = torch.zeros(1, 3, 2, 1, 1)
    target = torch.tensor([5.0, 1.0, 3.0]).reshape(1, 3, 1, 1, 1).expand_as(velocity)
    time = torch.full((1, 3), 500.0)
    assert loss(velocity, target, time, torch.tensor([[0.0, 1.0, 1.0]])).item() == 5.0
    assert loss(velocity, target, time).item() == pytest.approx(35 / 3)
    assert loss(velocity, target, time, torch.zeros(1, 3)).item() == 0.0


@pytest.mark.parametrize(("shift", "largest"), [(5.0, 2.076), (8.0, 2.473)])
def test_the_bell_is_that_of_public_code(shift, largest):
    loss = FlowMatchingLoss(shift, timestep_weighting="bell")
    weights = loss.weights(loss.table.timesteps)
    assert weights.mean().item() == pytest.approx(1.0, abs=1e-4)
    assert weights.min().item() == pytest.approx(0.0, abs=1e-6)
    assert weights.max().item() == pytest.approx(largest, abs=1e-3)


def test_draws_are_grid_points_with_their_levels():
    loss = FlowMatchingLoss(3.0)
    timestep, sigma = loss.draw(4, 5, torch.Generator().manual_seed(0))
    assert timestep.shape == sigma.shape == (4, 5)
    torch.testing.assert_close(timestep, sigma * 1000)
    assert torch.equal(loss.table.sigma_at(timestep), sigma)
