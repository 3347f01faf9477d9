import pytest
import torch

from lightning_adastate.flow import SigmaTable, add_noise, velocity_to_x0, x0_to_velocity


def test_x0_and_velocity_are_inverse():
    x0, noise = (
        torch.randn(2, 3, 4, dtype=torch.float64),
        torch.randn(2, 3, 4, dtype=torch.float64),
    )
    sigma = torch.tensor([[0.1, 0.5, 0.9]], dtype=torch.float64)
    x = add_noise(x0, noise, sigma)
    torch.testing.assert_close(velocity_to_x0(noise - x0, x, sigma), x0, atol=1e-14, rtol=0)
    torch.testing.assert_close(x0_to_velocity(x0, x, sigma), noise - x0, atol=1e-13, rtol=0)


def test_the_table_looks_up_the_nearest_entry_and_never_interpolates():
    table = SigmaTable(5.0)
    assert float(table.sigma_at(torch.tensor(0.0))) == pytest.approx(0.0049801, abs=1e-7)
    entry = table.timesteps[300]
    assert float(table.sigma_at(entry + 1e-3)) == float(table.sigmas[300])


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(5.0, [1000, 939.67, 937.5, 845.21]), (8.0, [1000, 961.42, 960, 897.29])],
)
def test_warped_steps_match_public_code(shift, expected):
    assert SigmaTable(shift).warp([1000, 757, 750, 522]) == pytest.approx(expected, abs=5e-3)


def test_shift_must_be_positive():
    with pytest.raises(ValueError, match="`shift` must be positive"):
        SigmaTable(0.0)
