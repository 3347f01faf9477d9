"""SiD against its formula by automatic and numerical differentiation, and on a problem with known scores."""

import pytest
import torch
from training_toy import ClipData, self_forcing, trainer

from lightning_adastate.flow import add_noise
from lightning_adastate.losses import HorizonWeighting, Networks, NoiseDraw, SiDLoss

SHAPE = (2, 3, 2, 2, 2)


def setting(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) for _ in range(2)]


def network(scale, parameter=None):
    """A velocity that depends on what it sees."""
    weight = torch.tensor(scale) if parameter is None else parameter
    return lambda latents, timestep: weight * latents.tanh() + 0.1 * scale


def naive(loss, video, draw, scales, alpha, weights, given):
    """The formula, with a graph through both answers."""
    free = (torch.arange(SHAPE[1]) >= given).float()
    sigma = loss.table.sigma_at(draw.timestep_B)[:, None] * free
    noised = add_noise(video, draw.noise_BFCHW, sigma)
    answers = []
    for scale in scales:
        velocity = network(scale)(noised, None)
        answers.append((noised - sigma[:, :, None, None, None] * velocity).double())
    r, f, x = *answers, video.double()
    norm = (x - r)[:, given:].abs().mean(dim=(1, 2, 3, 4), keepdim=True).detach()
    terms = (r - f) * ((r - x) - alpha * (r - f)) / norm * weights[None, :, None, None, None]
    return terms[:, given:].mean()


@pytest.mark.parametrize("given", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 1.2])
def test_value_and_gradient_are_those_of_the_formula(alpha, given):
    video, noise = setting()
    draw = NoiseDraw(torch.tensor([400.0, 900.0]), noise)
    loss = SiDLoss(HorizonWeighting(2.0), alpha=alpha, guidance=0.0)
    ours, theirs = video.clone().requires_grad_(), video.clone().requires_grad_()
    networks = Networks(network(0.7), None, network(-0.4))
    out = loss(ours, networks, draw, given_frames=given)
    out.loss.backward()
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    expected = naive(loss, theirs, draw, (0.7, -0.4), alpha, weights, given)
    expected.backward()
    torch.testing.assert_close(out.loss.detach(), expected.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours.grad[:, given:], theirs.grad[:, given:], rtol=1e-5, atol=1e-7)
    assert ours.grad[:, :given].abs().sum() == 0


def test_no_parameter_of_a_network_gets_a_gradient():
    video, noise = setting()
    critic = torch.nn.Parameter(torch.tensor(0.3))
    draw = NoiseDraw(torch.tensor([400.0, 900.0]), noise)
    networks = Networks(network(0.7), None, network(0.3, critic))
    clip = video.requires_grad_()
    SiDLoss(guidance=0.0)(clip, networks, draw).loss.backward()
    assert critic.grad is None
    assert clip.grad.abs().max() > 0


def test_a_gaussian_generator_moves_to_the_teachers_distribution():
    """Data N(2, 0.5^2), generator N(m, 0.5^2): both scores in closed form, so the critic is always exact."""
    torch.manual_seed(0)
    mean = torch.tensor(-1.0, requires_grad=True)
    loss = SiDLoss(guidance=0.0, shift=1.0, normaliser="none")
    optimizer = torch.optim.Adam([mean], lr=0.05)

    def exact(centre):
        def velocity(latents, timestep):
            sigma = loss.table.sigma_at(timestep)[:, :, None, None, None]
            spread = ((1 - sigma) * 0.5).square() + sigma.square()
            gap = latents - (1 - sigma) * centre
            x0 = centre + (1 - sigma) * 0.25 / spread * gap
            return (latents - x0) / sigma

        return velocity

    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        video = mean + 0.5 * torch.randn(64, 1, 1, 1, 1, generator=generator)
        draw = loss.draw(video, generator)
        networks = Networks(exact(2.0), None, exact(mean.detach()))
        optimizer.zero_grad()
        loss(video, networks, draw).loss.backward()
        optimizer.step()
    assert abs(mean.item() - 2.0) < 0.1


@pytest.mark.parametrize("quiet", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_is_the_same_value(quiet):
    video, noise = setting()
    draw = NoiseDraw(torch.tensor([400.0, 900.0]), noise)
    loss, networks = SiDLoss(guidance=0.0), Networks(network(0.7), None, network(-0.4))
    with quiet():
        found = loss(video, networks, draw, given_frames=1).loss
    clip = video.clone().requires_grad_()
    assert float(found) == float(loss(clip, networks, draw, given_frames=1).loss.detach())


def test_it_trains_and_validates_a_generator(tmp_path):
    model = self_forcing(loss=SiDLoss(guidance=0.0, shift=1.0))
    before = [p.clone() for p in model.generator.parameters()]
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, ClipData(4, val_count=0))
    moved = [
        not torch.equal(a, b) for a, b in zip(before, model.generator.parameters(), strict=True)
    ]
    assert any(moved)
    assert all(p.grad is None for p in model.teacher.parameters())
    (scores,) = run.validate(model, ClipData(4, val_count=2), verbose=False)
    assert torch.isfinite(torch.tensor(scores["val/loss_generator"]))


def test_the_users_hook_weighs_frames():
    video, noise = setting()
    clip = video.clone().requires_grad_()
    draw = NoiseDraw(torch.tensor([400.0, 900.0]), noise)
    networks = Networks(network(0.7), None, network(-0.4))
    keep = torch.tensor([1.0, 0.0, 0.0])
    SiDLoss(guidance=0.0)(clip, networks, draw, reweight=lambda w, _: w * keep).loss.backward()
    assert clip.grad[:, 1:].abs().max() == 0
    assert clip.grad[:, 0].abs().max() > 0
