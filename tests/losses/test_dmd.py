"""DMD and critic losses: recorded numbers, order of operations, gradients."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import GOLDEN, golden_backbone

from lightning_adastate.losses import (
    CriticLoss,
    DMDLoss,
    HorizonWeighting,
    MotionDMDLoss,
    Networks,
    NoiseDraw,
    SiDLoss,
    dmd_gradient,
    dmd_loss,
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


# -- order of operations ------------------------------------------------------------------------------


def problem(seed=0, rows=2, frames=4):
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, frames, 3, 2, 2)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4)
    ]  # video, teacher, critic, noise


def constant(value):
    return lambda latents, timestep: value.float()


def test_the_gradient_is_normalised_per_sample_and_by_hand():
    video, teacher, critic, _ = problem()
    ours = dmd_gradient(video, teacher, critic)
    for row in range(2):
        expected = (critic[row] - teacher[row]) / (video[row] - teacher[row]).abs().mean()
        torch.testing.assert_close(ours[row], expected, atol=1e-12, rtol=0)
    plain = dmd_gradient(video, teacher, critic, normaliser="none")
    torch.testing.assert_close(plain, critic - teacher, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", [DMDLoss, SiDLoss, MotionDMDLoss])
def test_a_teacher_of_nan_does_not_look_like_one_that_is_content(kind):
    video, _, critic, noise = problem()
    draw = NoiseDraw(torch.full((2,), 500.0), noise.float())
    networks = Networks(constant(video * torch.nan), None, constant(critic))

    def gradient(**options):
        leaf = video.float().requires_grad_()
        out = kind(guidance=0.0, **options)(leaf, networks, draw)
        return torch.autograd.grad(out.loss, leaf)[0], out.logs

    kept, logs = gradient()
    assert kept.isnan().all()
    assert "non_finite" not in logs
    zeroed, logs = gradient(non_finite="zero")
    assert not zeroed.any()
    assert logs["non_finite"] > 0


def test_a_video_that_is_the_teachers_answer_has_no_direction():
    video, _, critic, _ = problem()
    assert not dmd_gradient(video, video, critic).any()
    assert dmd_gradient(video, video, critic * torch.nan).isnan().all()


def test_given_frames_neither_carry_loss_nor_dilute_the_normaliser():
    video, teacher, critic, _ = problem()
    whole = dmd_gradient(video, teacher, critic, given_frames=1)[:, 1:]
    part = dmd_gradient(video[:, 1:], teacher[:, 1:], critic[:, 1:])
    torch.testing.assert_close(whole, part, atol=1e-12, rtol=0)
    video.requires_grad_()
    weights = torch.ones(2, 4)
    gradient = dmd_gradient(video.detach(), teacher, critic, given_frames=1)
    dmd_loss(video, gradient, weights, given_frames=1).backward()
    assert not video.grad[:, 0].any()
    torch.testing.assert_close(video.grad[:, 1:], part / part.numel(), atol=1e-12, rtol=0)


def test_what_is_not_a_number_moves_nothing():
    video, teacher, critic, _ = problem()
    teacher[0] = video[0]  # distance 0: the gradient of this row is infinite or undefined
    critic[0] = video[0]
    gradient = dmd_gradient(video, teacher, critic)
    assert not gradient[0].any()
    assert gradient[1].any()


def test_weights_act_after_the_normaliser_so_frames_stay_independent():
    video, _, _, noise = problem()
    video.requires_grad_()
    velocities = [torch.randn(video.shape) for _ in range(2)]
    networks = Networks(constant(velocities[0]), None, constant(velocities[1]))
    grads = []
    for weighting in (None, HorizonWeighting(4.0)):
        loss = DMDLoss(weighting, guidance=0.0)
        draw = NoiseDraw(torch.tensor([500.0, 900.0]), noise.float())
        (grad,) = torch.autograd.grad(loss(video, networks, draw).loss, video)
        grads.append(grad)
    ramp = HorizonWeighting(4.0)(torch.arange(4), 4).double()[None, :, None, None, None]
    torch.testing.assert_close(grads[1], grads[0] * ramp, atol=1e-12, rtol=1e-6)


def test_the_gradient_is_that_of_finite_differences_with_the_target_held():
    video, teacher, critic, _ = problem()
    gradient = dmd_gradient(video, teacher, critic)
    weights = HorizonWeighting(2.0)(torch.arange(4), 4).expand(2, 4)
    target = video - gradient

    def value(x):  # the loss with its stop-gradient written out
        return 0.5 * ((x - target).square() * weights.double()[:, :, None, None, None]).mean()

    x = video.clone().requires_grad_()
    dmd_loss(x, gradient, weights).backward()
    step = torch.zeros_like(video)
    for index in [(0, 0, 0, 0, 0), (0, 3, 2, 1, 1), (1, 2, 1, 0, 1)]:
        step.zero_()[index] = 1e-6
        slope = (value(video + step) - value(video - step)) / 2e-6
        assert x.grad[index].item() == pytest.approx(slope.item(), rel=1e-6)


def test_guidance_is_on_top_of_the_conditional_prediction():
    video, _, _, noise = problem()
    cond, uncond = torch.randn(video.shape), torch.randn(video.shape)
    critic = torch.randn(video.shape)
    draw = NoiseDraw(torch.tensor([500.0, 900.0]), noise.float())
    loss = DMDLoss(guidance=3.0)
    both = Networks(constant(cond), constant(uncond), constant(critic))
    mixed = Networks(constant(cond + 3.0 * (cond - uncond)), None, constant(critic))
    ours = loss.scores(video.float(), both, draw, 0)[0]
    theirs = DMDLoss(guidance=0.0).scores(video.float(), mixed, draw, 0)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_networks_see_given_frames_clean_at_timestep_zero():
    video, _, _, noise = problem()
    seen = {}

    def spy(latents, timestep):
        seen.update(latents=latents, timestep=timestep)
        return torch.zeros_like(latents)

    draw = NoiseDraw(torch.tensor([500.0, 900.0]), noise.float())
    CriticLoss()(video, spy, draw, given_frames=2)
    assert torch.equal(seen["latents"][:, :2], video[:, :2].float())
    assert not torch.allclose(seen["latents"][:, 2:], video[:, 2:].float(), atol=1e-3)
    assert seen["timestep"].tolist() == [[0, 0, 500, 500], [0, 0, 900, 900]]


def test_the_users_weights_have_the_last_word():
    video, _, _, noise = problem()
    video.requires_grad_()
    zero = constant(torch.zeros(video.shape))
    networks = Networks(constant(noise), None, zero)
    draw = NoiseDraw(torch.tensor([500.0, 900.0]), noise.float())
    loss = DMDLoss(HorizonWeighting(2.0), guidance=0.0)
    seen = []

    def only_the_last(weights, latents):
        seen.append((weights.clone(), latents.requires_grad))
        return torch.zeros_like(weights).index_fill(1, torch.tensor([3]), 1.0)

    loss(video, networks, draw, reweight=only_the_last).loss.backward()
    assert video.grad[:, 3].any()
    assert not video.grad[:, :3].any()
    ((weights, has_graph),) = seen
    assert weights.tolist() == HorizonWeighting(2.0)(torch.arange(4), 4).expand(2, 4).tolist()
    assert not has_graph


def test_timesteps_are_shifted_and_clamped():
    loss = DMDLoss(guidance=0.0, shift=5.0, min_timestep=150.0, max_timestep=980.0)
    index = torch.tensor([0, 500, 999])
    torch.testing.assert_close(
        loss.timestep_of(index), torch.tensor([150.0, 833.3333, 980.0]), atol=1e-3, rtol=0
    )


def test_bad_timesteps_are_refused():
    with pytest.raises(ValueError, match=r"interval in \[0, 1000\], got 980 and 20"):
        DMDLoss(min_timestep=980, max_timestep=20)
    with pytest.raises(ValueError, match="`shift` must be positive"):
        CriticLoss(shift=0.0)
