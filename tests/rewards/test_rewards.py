"""Rewards rank clips as they say, and weigh the loss of each clip."""

from dataclasses import replace

import pytest
import torch
from training_toy import ClipData, self_forcing, trainer

from lightning_adastate.callbacks import RewardWeighting
from lightning_adastate.rewards import FunctionReward, PanReward, Reward
from lightning_adastate.rollouts import ContinuedRollouts
from lightning_adastate.worlds import PanWorld


def clips(world, paces, frames=21):
    """Clips of a camera at these paces, without shake."""
    truth = world.sample(range(len(paces)), frames, seed=3)
    time = torch.arange(frames, dtype=torch.float64)
    way = torch.tensor(paces, dtype=torch.float64)[:, None] * time
    return world.render(replace(truth, position_BF=truth.start_B[:, None] + way))


def test_the_prompted_pace_scores_one_and_the_wrong_way_below_zero():
    world = PanWorld(shake=0.0)
    fast = world.velocities[-1]
    prompt = world.prompt(fast)
    scores = PanReward(world, mean=0.0, std=1.0)(
        clips(world, [fast, fast / 2, 0.0, -fast]), [prompt] * 4
    )
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert scores[0] == pytest.approx(1.0, abs=0.15)
    assert scores[2] < scores[0] - 1.0
    assert scores[3] < 0


def test_standing_still_scores_zero_on_average_over_the_prompts():
    world = PanWorld(shake=0.0)
    prompts = [world.prompt(velocity) for velocity in world.velocities]
    scores = PanReward(world, mean=0.0, std=1.0)(clips(world, [0.0] * len(prompts)), prompts)
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-6)


def test_mean_and_deviation_are_taken_off_the_raw_score():
    world = PanWorld()
    prompts = [world.prompt(velocity) for velocity in world.velocities[:2]]
    video = clips(world, [0.1, 0.3])
    raw = PanReward(world, mean=0.0, std=1.0)(video, prompts)
    found = PanReward(world, mean=0.5, std=0.25)(video, prompts)
    torch.testing.assert_close(found, (raw - 0.5) / 0.25)
    with pytest.raises(ValueError, match="`std`"):
        PanReward(world, std=0.0)


def test_one_frame_has_no_pace():
    world = PanWorld()
    with pytest.raises(ValueError, match="two frames or more"):
        PanReward(world)(torch.zeros(1, 1, 3, 8, 16), [world.prompt(world.velocities[0])])


def test_a_function_is_a_reward():
    reward = FunctionReward(lambda video, prompts: video.mean(dim=(1, 2, 3, 4)), mean=0.5, std=2.0)
    video = torch.ones(2, 3, 3, 4, 4) * torch.tensor([0.5, 1.0])[:, None, None, None, None]
    assert reward(video, ["a", "b"]).tolist() == [0.0, 0.25]
    wrong = FunctionReward(lambda video, prompts: video.mean())
    with pytest.raises(ValueError, match=r"one score per clip, \(2,\), got \(\)"):
        wrong(video, ["a", "b"])
    with pytest.raises(ValueError, match="`std`"):
        FunctionReward(len, std=0.0)


class ByRow(Reward):
    """Row 0 gets 0, row 1 gets log 3 / 2: with beta 2 the second clip weighs three times as much."""

    def forward(self, video_BFCHW, prompts):
        assert video_BFCHW.shape == (2, 5, 3, 4, 6)
        assert len(prompts) == 2
        assert video_BFCHW.min() >= 0
        return torch.tensor([0.0, torch.tensor(3.0).log().item() / 2])


def gradient_at_the_video(tmp_path, callbacks):
    model, found = self_forcing(), []

    def watch(_, args):
        args[0].register_hook(found.append)

    model.loss.register_forward_pre_hook(watch)
    trainer(tmp_path, callbacks=callbacks, max_steps=1).fit(model, ClipData(2, val_count=0))
    return found[0]


def test_each_clips_gradient_is_weighed_by_its_own_reward(tmp_path):
    plain = gradient_at_the_video(tmp_path, [])
    weighed = gradient_at_the_video(tmp_path, [RewardWeighting(ByRow())])
    torch.testing.assert_close(weighed[0], plain[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(weighed[1], 3 * plain[1], rtol=1e-5, atol=0)


def test_one_clip_cannot_be_all_of_a_batch(tmp_path):
    plain = gradient_at_the_video(tmp_path, [])
    cut = gradient_at_the_video(tmp_path, [RewardWeighting(ByRow(), beta=20.0, max_weight=4.0)])
    torch.testing.assert_close(cut[1], 4 * plain[1], rtol=1e-5, atol=0)


def test_rollouts_that_carry_their_prompts_on_are_refused(tmp_path):
    carrying = self_forcing(rollouts=ContinuedRollouts(9, old_frames=1))
    run = trainer(tmp_path, callbacks=[RewardWeighting(ByRow())], max_steps=1)
    with pytest.raises(ValueError, match="carry a sequence and its prompts on"):
        run.fit(carrying, ClipData(2, val_count=0))


class Learned(ByRow):
    """A reward with a parameter: it must be where the clips are."""

    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros(()))

    def forward(self, video_BFCHW, prompts):
        assert self.offset.device == video_BFCHW.device
        return super().forward(video_BFCHW, prompts).to(self.offset) + self.offset


def test_a_rewards_parameters_do_not_learn(tmp_path):
    reward = Learned()
    gradient_at_the_video(tmp_path, [RewardWeighting(reward)])
    assert reward.offset.item() == 0
    assert reward.offset.grad is None
    assert not reward.offset.requires_grad


@pytest.mark.parametrize(("name", "value"), [("beta", -1.0), ("max_weight", 0.0)])
def test_bad_numbers_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        RewardWeighting(ByRow(), **{name: value})
