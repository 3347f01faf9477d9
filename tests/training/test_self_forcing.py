"""Self-forcing: recorded gradients, counts, the average."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import GOLDEN, golden_backbone
from training_toy import loader, self_forcing, trainer

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.caches import SlidingCache
from lightning_adastate.noise import NoiseKey, RecordedNoise
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streamer import Streamer


@pytest.mark.parametrize("exit_step", [0, 3])
def test_a_training_rollouts_gradients_equal_the_recording(exit_step):
    case = load_file(GOLDEN / f"train_exit{exit_step}.safetensors")
    streamer = Streamer(
        golden_backbone(),
        anchor=StaticAnchor(0),
        cache=SlidingCache(budget_frames=21),
        schedule=FewStepSchedule(3, commit_noise="table"),
    )
    names = iter(sorted(name for name in case if name.startswith("drawn.")))
    draws = {}
    for chunk in range(3):
        draws[NoiseKey(chunk, 0, "content")] = case["noise"][:, 3 * chunk : 3 * chunk + 3]
        steps = [*range(1, exit_step + 1), len(streamer.schedule.passes(chunk))]
        for step in steps:
            draws[NoiseKey(chunk, step, "content")] = case[next(names)][None]
    state = streamer.start(case["text"], latent_shape=(16, 8, 12))
    latents, _ = streamer.rollout(
        state,
        3,
        noise=RecordedNoise(draws),
        exit_step=exit_step,
        kv_gradient="straight_through",
    )
    torch.testing.assert_close(latents.detach(), case["latents"], atol=1e-5, rtol=0)
    loss = (latents.double() * case["loss_weight"].double()).square().mean()
    loss.backward()
    assert abs(loss.item() / case["loss"].item() - 1.0) <= 1e-6
    worst = {}
    for name, parameter in streamer.backbone.named_parameters():
        theirs = case[f"grad.model.{name}"]
        worst[name] = float((parameter.grad - theirs).norm() / theirs.norm())
    print(sorted(worst.items(), key=lambda item: -item[1])[:5])
    assert max(worst.values()) <= 1e-5


def test_it_runs(tmp_path):
    model = self_forcing()
    trainer(tmp_path).fit(model, loader(), loader(4))
