"""Half precision for weights is no half precision for numbers: noise, levels and constants stay float32."""

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from training_toy import backbone, parts

from lightning_adastate.codecs.latent_scale import LatentScale
from lightning_adastate.flow import SigmaTable
from lightning_adastate.noise import CounterNoise, NoiseKey
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.training import StreamModule


def streamed(module):
    """What every pass of three chunks brings to the backbone: latents and timesteps."""
    seen = []
    module.streamer.backbone.register_forward_pre_hook(
        lambda _, args, named: seen.append((args[0].clone(), named["timestep_BF"].clone())),
        with_kwargs=True,
    )
    list(module.stream(module.open_stream(["drifting west"], seed=3), 3))
    return seen


def test_the_numbers_that_reach_the_backbone_are_float32_in_bf16_true():
    schedule = FewStepSchedule(1, steps=(1000, 750, 500, 250), shift=5.0)
    module = StreamModule(backbone(), **parts(schedule=schedule)).eval()
    precision = HalfPrecision("bf16-true")
    module = precision.convert_module(module)
    with precision.forward_context():
        seen = streamed(module)
    assert {latents.dtype for latents, _ in seen} == {torch.float32}
    expected = torch.tensor([1000.0, 937.5, 2500 / 3, 625.0, 0.0] * 3)
    found = torch.stack([timestep[0, -1] for _, timestep in seen])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    noise = CounterNoise().draw(
        NoiseKey(0, 0, "content"), seed=3, stream_ids=[0], shape_FCHW=(1, 12, 2, 3)
    )
    assert torch.equal(seen[0][0], noise)


def test_noise_and_levels_are_the_same_whatever_the_default_dtype():
    def numbers():
        options = {"seed": 0, "stream_ids": [0], "shape_FCHW": (1, 2, 2, 2)}
        noise = CounterNoise().draw(NoiseKey(0, 0, "content"), **options)
        return noise, SigmaTable(5.0).sigmas, torch.tensor(SigmaTable(5.0).warp([750, 250, 0]))

    expected = numbers()
    with HalfPrecision("bf16-true").forward_context():
        found = numbers()
    for a, b in zip(found[:2], expected[:2], strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
    assert found[2].tolist() == expected[2].to(torch.bfloat16).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_codecs_constants_are_not_cast_with_it(dtype):
    scale = LatentScale([0.1, -0.7], [3.3, 1.1]).to(dtype)
    latents = torch.randn(1, 2, 2, 3, 3)
    std = torch.tensor([3.3, 1.1]).view(1, 1, 2, 1, 1)
    mean = torch.tensor([0.1, -0.7]).view(1, 1, 2, 1, 1)
    assert torch.equal(scale.restore(latents), latents * std + mean)
    assert torch.equal(scale.normalise(latents), (latents - mean) / std)
    assert scale.state_dict() == {}
