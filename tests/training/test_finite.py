"""What is not finite stops a training before anything is updated, and says from where to go on."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from training_toy import ClipData, flow_matching, self_forcing, trainer

from lightning_adastate.training.finite import NonFiniteError


class Poison(Callback):
    """Puts a NaN into a network before a batch, and notes the weights that everything is to keep."""

    def __init__(self, batch, network):
        self.batch, self.network = batch, network

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch:
            with torch.no_grad():
                next(self.network(pl_module).parameters()).view(-1)[0] = torch.nan
            self.before = {
                name: value.clone()
                for name, value in pl_module.state_dict().items()
                if name.startswith("generator.")
            }


def stopped(tmp_path, model, poison, *callbacks):
    run = trainer(tmp_path, callbacks=[poison, *callbacks], enable_checkpointing=bool(callbacks))
    with pytest.raises(NonFiniteError) as refused:
        run.fit(model, ClipData())
    after = model.state_dict()
    for name, value in poison.before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True)
    return str(refused.value), run


def test_a_teacher_of_nan_stops_the_run_at_once(tmp_path):
    message, run = stopped(
        tmp_path, self_forcing(generator_interval=1), Poison(0, lambda m: m.teacher)
    )
    assert "the gradient of generator.backbone." in message
    assert "is not finite after 0 generator steps; its step was not taken" in message
    assert "No checkpoint was written yet" in message
    assert run.global_step == 0


def test_a_critic_of_nan_stops_the_run_and_is_named(tmp_path):
    model = self_forcing(generator_interval=5, critic_warmup=3)
    message, _ = stopped(tmp_path, model, Poison(1, lambda m: m.critic))
    assert "the gradient of critic." in message


def test_the_last_good_checkpoint_is_named(tmp_path):
    saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    poison = Poison(2, lambda m: m.generator.backbone)
    message, run = stopped(tmp_path, flow_matching(), poison, saves)
    assert run.global_step == 2
    assert f"The last good checkpoint is {tmp_path / 'step=2.ckpt'}" in message
    assert torch.load(tmp_path / "step=2.ckpt", weights_only=True)["global_step"] == 2


def test_a_resumed_run_without_a_checkpoint_of_its_own_names_the_one_it_began_at(tmp_path):
    first = trainer(tmp_path, max_steps=1)
    first.fit(flow_matching(), ClipData())
    first.save_checkpoint(tmp_path / "one.ckpt")
    poison = Poison(0, lambda m: m.generator.backbone)
    run = trainer(tmp_path, callbacks=[poison], max_epochs=3)
    with pytest.raises(NonFiniteError, match=f"The run began at {tmp_path / 'one.ckpt'}"):
        run.fit(flow_matching(), ClipData(), ckpt_path=tmp_path / "one.ckpt")
