"""The motion term against its formula in loops, and the released formula, which has no gradient."""

import pytest
import torch

from lightning_adastate.losses import (
    DMDLoss,
    HorizonWeighting,
    MotionDMDLoss,
    Networks,
    NoiseDraw,
    motion_weights,
)

ROWS, FRAMES = 2, 5


def problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (ROWS, FRAMES, 3, 2, 2)
    return [
        torch.randn(shape, generator=generator) for _ in range(4)
    ]  # video, teacher, critic, noise


def ask(loss, video, teacher, critic, noise, **options):
    """Networks that always answer the same x0; the loss turns it into velocity and back."""
    draw = NoiseDraw(torch.tensor([500.0, 700.0]), noise)
    noised = loss.noised(video.detach(), draw, options.get("given_frames", 0))
    sigma = noised.score_sigma_BF[:, :, None, None, None].clamp(min=1e-6)

    def answers(x0):
        return lambda latents, timestep: (latents - x0) / sigma

    return loss(video, Networks(answers(teacher), None, answers(critic)), draw, **options)


def naive(video, teacher, critic, given=0):
    """Gradient of the motion term at the video, in loops and float64."""
    video, teacher, critic = video.double(), teacher.double(), critic.double()
    still = max(0, given - 1)
    gradient = torch.zeros_like(video)
    for row in range(ROWS):
        steps = range(still, FRAMES - 1)
        d = {f: video[row, f + 1] - video[row, f] for f in steps}
        real = {f: teacher[row, f + 1] - teacher[row, f] for f in steps}
        fake = {f: critic[row, f + 1] - critic[row, f] for f in steps}
        scale = torch.stack([(d[f] - real[f]).abs() for f in steps]).mean()
        g = {f: (fake[f] - real[f]) / scale for f in steps}
        total, so_far = sum(g[f].abs().mean() for f in steps), 0.0
        growing = [1.2**i for i in range(len(steps))]
        for i, f in enumerate(steps):
            so_far = so_far + g[f].abs().mean()
            weight = 0.7 * (1 + so_far / total) + 0.3 * growing[i] / (sum(growing) / len(growing))
            pull = weight * g[f] / (ROWS * len(steps) * g[f].numel())
            gradient[row, f + 1] += pull
            gradient[row, f] -= pull
    return gradient


@pytest.mark.parametrize("given", [0, 1, 2])
def test_the_motion_gradient_is_that_of_the_formula(given):
    video, teacher, critic, noise = problem()
    teacher[:, :given], critic[:, :given] = video[:, :given], video[:, :given]
    with_motion, without = video.clone().requires_grad_(), video.clone().requires_grad_()
    options = {"given_frames": given}
    loss = MotionDMDLoss(motion_weight=0.5, guidance=0.0)
    ask(loss, with_motion, teacher, critic, noise, **options).loss.backward()
    plain = DMDLoss(guidance=0.0)
    ask(plain, without, teacher, critic, noise, **options).loss.backward()
    expected = 0.5 * naive(video, teacher, critic, given)
    ours = (with_motion.grad - without.grad).double()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-4


def test_without_motion_weight_it_is_dmd():
    video, teacher, critic, noise = problem()
    a = ask(MotionDMDLoss(motion_weight=0.0, guidance=0.0), video, teacher, critic, noise)
    b = ask(DMDLoss(guidance=0.0), video, teacher, critic, noise)
    assert torch.equal(a.loss, b.loss)


def test_following_the_gradient_lowers_the_motion_error_and_the_released_term_does_not():
    """Critic and video agree (as after training the critic); the teacher moves twice as fast."""
    video, _, _, noise = problem()
    ramp = torch.arange(FRAMES).float()[None, :, None, None, None].expand_as(video)
    teacher = 0.2 * ramp
    video = (0.1 * ramp + 0.01 * video).requires_grad_()

    def error(clip):
        return float((clip.diff(dim=1) - teacher.diff(dim=1)).detach().abs().mean())

    def frames_alone(clip):
        return ask(DMDLoss(guidance=0.0), clip, teacher, clip.detach(), noise).loss

    loss, before = MotionDMDLoss(motion_weight=1.0, guidance=0.0), error(video)
    optimizer = torch.optim.SGD([video], lr=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        whole = ask(loss, video, teacher, video.detach(), noise).loss
        (whole - frames_alone(video)).backward()  # the motion term alone
        assert video.grad.abs().max() > 0
        optimizer.step()
    assert error(video) < 0.5 * before

    with torch.no_grad():  # as released: the squared gradient, weighted, made without a graph
        g = video.detach().diff(dim=1) - teacher.diff(dim=1)
        released = (motion_weights(g)[:, :, None, None, None] * g.square()).mean()
    assert not released.requires_grad


def test_networks_are_asked_once_each():
    video, teacher, _, noise = problem()
    asked = []

    def network(name):
        return lambda latents, timestep: asked.append(name) or teacher

    draw = NoiseDraw(torch.tensor([500.0, 700.0]), noise)
    networks = Networks(network("teacher"), network("negative"), network("critic"))
    MotionDMDLoss()(video, networks, draw)
    assert sorted(asked) == ["critic", "negative", "teacher"]


def test_frame_weights_and_the_users_hook_reach_the_motion_term():
    video, teacher, critic, noise = problem()

    def motion(weighting=None, reweight=None):
        loss = MotionDMDLoss(weighting, motion_weight=1.0, guidance=0.0)
        clip = video.clone().requires_grad_()
        ask(loss, clip, teacher, critic, noise, reweight=reweight).loss.backward()
        return clip.grad

    first = motion(reweight=lambda weights, clip: weights * torch.tensor([1.0, 0, 0, 0, 0]))
    assert first[:, 1:].abs().max() == 0
    assert not torch.equal(motion(HorizonWeighting(2.0)), motion())


def test_one_frame_does_not_move():
    clip = torch.randn(2, 1, 3, 2, 2)
    with pytest.raises(ValueError, match="two frames or more, got 1"):
        ask(MotionDMDLoss(guidance=0.0), clip, clip, clip, clip)
    with pytest.raises(ValueError, match="`motion_weight`"):
        MotionDMDLoss(motion_weight=-1.0)
