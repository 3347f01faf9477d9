"""A checkpoint of another model is refused; one of another anchor is not another model."""

import pytest
import torch
from training_toy import ClipData, causal, flow_matching, parts, self_forcing, trainer

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.training import SelfForcing


@pytest.fixture
def saved(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    run.fit(self_forcing(generator_interval=1), ClipData(4, val_count=0))
    run.save_checkpoint(tmp_path / "saved.ckpt")
    return tmp_path / "saved.ckpt"


def larger(num_layers=2, dim=24):
    """The same module around another backbone."""
    plain = self_forcing()
    backbone = WanTransformer(
        dim,
        ffn_dim=32,
        num_heads=2,
        num_layers=num_layers,
        in_channels=12,
        patch_size=(1, 1, 1),
        freq_dim=16,
        text_dim=8,
        text_tokens=4,
    )
    return SelfForcing(
        backbone,
        **parts(),
        loss=plain.loss,
        critic_loss=plain.critic_loss,
        optimizer=plain.build_optimizer,
        critic_optimizer=plain.build_critic_optimizer,
        ema_decay=0.5,
    )


OTHERS = {
    "more layers": (lambda: larger(num_layers=3), "it lacks .*blocks.2"),
    "fewer layers": (lambda: larger(num_layers=1), "it also has .*blocks.1"),
    "wider": (lambda: larger(dim=48), "it has another shape of"),
    "no average": (lambda: self_forcing(ema_decay=None), "it also has generator_ema"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_training_refuses_what_would_stay_as_it_was_built(other, saved, tmp_path):
    build, message = OTHERS[other]
    with pytest.raises(ValueError, match=f"the checkpoint is not of this model: {message}"):
        trainer(tmp_path).fit(build(), ClipData(4, val_count=0), ckpt_path=saved)


def test_a_checkpoint_of_another_stage_is_refused_though_its_weights_fit(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    run.fit(flow_matching(), ClipData(4, val_count=0))
    run.save_checkpoint(tmp_path / "teacher.ckpt")
    checkpoint = torch.load(tmp_path / "teacher.ckpt", weights_only=True)
    assert checkpoint.pop("stage") == "FlowMatching"
    checkpoint["config"] = "model: {class_path: lightning_adastate.training.FlowMatching}"
    torch.save(checkpoint, tmp_path / "older.ckpt")  # without the key, as older versions wrote it
    refusal = "of the stage FlowMatching, not of CausalFlowMatching.*`model.weights`"
    for name in ("teacher.ckpt", "older.ckpt"):
        for verb in ("fit", "validate", "predict"):
            with pytest.raises(ValueError, match=refusal):
                getattr(trainer(tmp_path), verb)(
                    causal(), ClipData(4), ckpt_path=tmp_path / name, weights_only=True
                )


def test_a_subclass_is_no_other_stage(saved, tmp_path):
    model = self_forcing()
    model.__class__ = type("Mine", (SelfForcing,), {})
    run = trainer(tmp_path, max_steps=2, max_epochs=5)
    run.fit(model, ClipData(4, val_count=0), ckpt_path=saved)
    assert model.global_step == 2
    run.save_checkpoint(tmp_path / "mine.ckpt")
    with pytest.raises(ValueError, match="of the stage Mine, not of SelfForcing"):
        trainer(tmp_path).fit(self_forcing(), ClipData(4), ckpt_path=tmp_path / "mine.ckpt")


def test_a_checkpoint_without_weights_in_common_is_refused(saved, tmp_path):
    checkpoint = torch.load(saved, weights_only=True)
    checkpoint["state_dict"] = {"something": torch.zeros(1)}
    torch.save(checkpoint, saved)
    with pytest.raises(ValueError, match="it lacks critic"):
        trainer(tmp_path).validate(self_forcing(), ClipData(4), ckpt_path=saved)


def test_another_anchor_is_no_other_model(saved, tmp_path):
    model = self_forcing(anchor=StaticAnchor(1))
    run = trainer(tmp_path, max_steps=2, max_epochs=5)
    run.fit(model, ClipData(4, val_count=0), ckpt_path=saved)
    assert model.global_step == 2


def test_predicting_does_without_the_critic_and_makes_streams_of_the_clips_length(saved, tmp_path):
    data, model = ClipData(4, val_count=4), self_forcing()
    videos = trainer(tmp_path).predict(model, data, ckpt_path=saved)
    assert [tuple(video.shape) for video in videos] == [(2, 5, 3, 4, 6)] * 2
    assert not torch.equal(videos[0], videos[1])
    trained = torch.load(saved, weights_only=True)["state_dict"]
    name = "generator_ema.backbone.head.head.weight"
    assert torch.equal(model.state_dict()[name], trained[name])


def test_testing_logs_what_validation_logs(tmp_path):
    ((validated,), (tested,)) = (
        getattr(trainer(tmp_path), verb)(self_forcing(), ClipData(4), verbose=False)
        for verb in ("validate", "test")
    )
    assert {name.replace("val/", "test/"): value for name, value in validated.items()} == tested
    assert "test/loss_generator" in tested


def test_a_checkpoint_without_a_place_in_the_learning_rates_is_not_resumed(saved, tmp_path):
    checkpoint = torch.load(saved, weights_only=True)
    checkpoint["lr_schedulers"] = []
    torch.save(checkpoint, saved)
    with pytest.raises(ValueError, match="holds no place in its learning rates"):
        trainer(tmp_path).fit(self_forcing(), ClipData(4, val_count=0), ckpt_path=saved)
    trainer(tmp_path).validate(self_forcing(), ClipData(4), ckpt_path=saved)
