"""Callbacks: loss weighting changes the weights it says, and nothing else changes anything."""

import random

import numpy as np
import pytest
import torch
from training_toy import ClipData, self_forcing, trainer

from lightning_adastate.callbacks import (
    ExactResume,
    GracefulStop,
    HorizonRamp,
    LossWeightingCallback,
)
from lightning_adastate.callbacks.exact_resume import random_state, restore_random_state
from lightning_adastate.losses import HorizonWeighting


class Only(LossWeightingCallback):
    """A user's callback: one frame counts."""

    def __init__(self, frame: int) -> None:
        self.frame = frame
        self.seen: list[torch.Tensor] = []

    def frame_weights(self, module, weights_BF, video_BFCHW):
        assert video_BFCHW.shape[:2] == weights_BF.shape
        assert not video_BFCHW.requires_grad
        self.seen.append(weights_BF.clone())
        return torch.nn.functional.one_hot(torch.tensor(self.frame), weights_BF.shape[1]).float()


class Double(Only):
    def frame_weights(self, module, weights_BF, video_BFCHW):
        self.seen.append(weights_BF.clone())
        return 2 * weights_BF


def video_gradient(tmp_path, callbacks, **options):
    """The loss's gradient at the rollout in one training batch."""
    model = self_forcing(**options)
    found = []

    def watch(_, args):
        args[0].register_hook(found.append)

    model.loss.register_forward_pre_hook(watch)
    trainer(tmp_path, callbacks=callbacks, max_steps=1).fit(model, ClipData(2, val_count=0))
    return found[0]


def test_a_users_callback_decides_which_frame_counts(tmp_path):
    plain, chosen = (video_gradient(tmp_path, cs) for cs in ([], [Only(3)]))
    assert plain.abs().amax(dim=(0, 2, 3, 4)).gt(0).all()
    assert chosen.abs().amax(dim=(0, 2, 3, 4)).gt(0).tolist() == [False, False, False, True, False]
    torch.testing.assert_close(chosen[:, 3], plain[:, 3], atol=0, rtol=1e-6)


def test_callbacks_see_the_weighting_and_run_in_their_order(tmp_path):
    first, second = Double(0), Only(1)
    options = {"loss": type(self_forcing().loss)(HorizonWeighting(4.0), guidance=0.0, shift=1.0)}
    video_gradient(tmp_path, [first, second], **options)
    assert first.seen[0].tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0]] * 2
    assert second.seen[0].tolist() == [[2.0, 4.0, 6.0, 8.0, 10.0]] * 2


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(3), r"must return weights of shape \(2, 5\), got \(3,\)"),
        (None, r"must return weights of shape \(2, 5\), got None"),
        (torch.full((5,), -1.0), "finite weights of 0 or more"),
        (torch.full((5,), float("nan")), "finite weights of 0 or more"),
    ],
)
def test_bad_weights_are_refused_naming_the_callback(weights, message):
    class Broken(LossWeightingCallback):
        def frame_weights(self, module, weights_BF, video_BFCHW):
            return weights

    model = self_forcing()
    model.trainer = trainer("/tmp", callbacks=[Broken()])
    with pytest.raises(ValueError, match=f"Broken.frame_weights.*{message}"):
        model.reweight(torch.ones(2, 5), torch.zeros(2, 5, 1, 1, 1))


def test_a_module_without_a_trainer_has_no_hooks():
    weights = torch.ones(2, 5)
    assert self_forcing().reweight(weights, torch.zeros(2, 5, 1, 1, 1)) is weights


def test_the_horizon_ramp_grows_with_generator_steps():
    class At:
        global_step = 0

    ramp, module = HorizonRamp(4.0, ramp_steps=10), At()
    seen = []
    for module.global_step in (0, 5, 10, 99):
        seen.append(ramp.frame_weights(module, torch.ones(1, 3), torch.zeros(1, 3)).tolist()[0])
    assert seen == [[1, 1, 1], [1, 2, 3], [1, 3, 5], [1, 3, 5]]


def test_the_horizon_ramp_reaches_the_loss(tmp_path):
    plain = video_gradient(tmp_path, [])
    first = video_gradient(tmp_path, [HorizonRamp(4.0, ramp_steps=10)])
    assert torch.equal(plain, first), "at step 0 all frames count alike"


def test_random_states_survive_a_safe_load(tmp_path):
    random.gauss(0, 1), np.random.randn()  # both keep a second number back
    torch.save(random_state(), tmp_path / "state.pt")

    def draw():
        return [random.gauss(0, 1), np.random.randn(), np.random.rand(), torch.rand(()).item()]

    expected = draw()
    draw()
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected


def test_a_checkpoint_without_random_states_warns(tmp_path):
    run = trainer(tmp_path)
    with pytest.warns(UserWarning, match="no random states for 1 processes"):
        ExactResume().on_load_checkpoint(run, self_forcing(), {})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GracefulStop("stopped.pt"), r"must end in .ckpt, got 'stopped.pt'"),
        (lambda: HorizonRamp(-2.0), "`alpha` must be greater than -1, got -2"),
        (lambda: HorizonRamp(ramp_steps=0), "`ramp_steps` must be 1 or more, got 0"),
    ],
)
def test_bad_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
