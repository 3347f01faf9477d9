"""Frame weightings against hand numbers."""

import pytest
import torch

from lightning_adastate.losses import HorizonWeighting, UniformWeighting


def weights(weighting, frames, first=0):
    return weighting(torch.arange(first, frames), frames).tolist()


def test_horizon_weights_rise_linearly_from_one_in_our_reading_of_equation_5():
    assert weights(HorizonWeighting(2.0), 5) == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_horizon_weights_count_given_frames():
    assert weights(HorizonWeighting(2.0), 5, first=2) == [2.0, 2.5, 3.0]


def test_alpha_zero_is_uniform():
    assert weights(HorizonWeighting(0.0), 7) == weights(UniformWeighting(), 7) == [1.0] * 7


def test_one_frame_has_weight_one():
    assert weights(HorizonWeighting(4.0), 1) == [1.0]


def test_share_of_loss_on_late_frames_is_that_of_the_paper_in_our_reading():
    for alpha, share in ((0.0, 0.71), (2.0, 0.82), (4.0, 0.86)):
        ramp = HorizonWeighting(alpha)(torch.arange(21), 21)
        assert round(float(ramp[6:].sum() / ramp.sum()), 2) == share


def test_a_weight_of_zero_is_refused():
    with pytest.raises(ValueError, match="`alpha` must be greater than -1, got -1"):
        HorizonWeighting(-1.0)
