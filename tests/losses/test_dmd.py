"""DMD and critic losses: recorded numbers, order of operations, gradients."""

import torch
from safetensors.torch import load_file
from tiny import GOLDEN, golden_backbone

from lightning_adastate.losses import (
    CriticLoss,
    DMDLoss,
    Networks,
    NoiseDraw,
)


def velocity_of(model, text):
    kv = model.text_kv(text)
    return lambda latents, timestep: model(latents, timestep_BF=timestep, text=kv).velocity_BFCHW


def public(loss_class, **options):
    """The public code's settings, both sigma tables included."""
    return loss_class(shift=5.0, score_shift=8.0, **options)


def relative(ours, theirs):
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def test_dmd_loss_and_gradient_equal_the_recording():
    case = load_file(GOLDEN / "dmd_generator_loss.safetensors")
    teacher, critic = golden_backbone(1), golden_backbone(2)
    loss = public(DMDLoss, guidance=3.0)
    video = case["x"].requires_grad_()
    with torch.no_grad():
        networks = Networks(
            velocity_of(teacher, case["text"]),
            velocity_of(teacher, case["text_uncond"]),
            velocity_of(critic, case["text"]),
        )
    draw = NoiseDraw(loss.timestep_of(case["index"][:, 0]), case["eps"])
    out = loss(video, networks, draw)
    out.loss.backward()
    assert relative(out.loss.detach(), case["loss"]) <= 1e-6
    assert relative(video.grad, case["grad"]) <= 1e-6


def test_critic_loss_and_gradients_equal_the_recording():
    case = load_file(GOLDEN / "dmd_critic_loss.safetensors")
    critic = golden_backbone(2)
    loss = public(CriticLoss)
    draw = NoiseDraw(loss.timestep_of(case["index"][:, 0]), case["eps"])
    out = loss(case["x"], velocity_of(critic, case["text"]), draw)
    out.loss.backward()
    assert relative(out.loss.detach(), case["loss"]) <= 1e-6
    for name, parameter in critic.named_parameters():
        expected = case[f"grad.model.{name}"]
        worst = (parameter.grad - expected).norm() / expected.norm().clamp(min=1e-3)
        assert worst <= 1e-5, name
    ours = torch.cat([p.grad.flatten() for p in critic.parameters()])
    theirs = torch.cat([case[f"grad.model.{n}"].flatten() for n, _ in critic.named_parameters()])
    assert relative(ours, theirs) <= 1e-6
