"""docs/rewards.md as it stands: its toy recipe trains, its adapter asks a scorer for the right files."""

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lightning_adastate
from lightning_adastate.__main__ import main
from lightning_adastate.media.reading import read_video

PAGE = Path(lightning_adastate.__file__).parent.parent / "docs" / "rewards.md"
if not PAGE.exists():
    pytest.skip("no docs in an installed package", allow_module_level=True)
FILES = {
    named[1]: code
    for code in re.findall(r"```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)
    if (named := re.match(r"# (\w+\.(?:py|yaml))\n", code))
}
SMALL = """\
--trainer.max_steps=1 --trainer.accelerator=cpu --trainer.enable_progress_bar=false
--trainer.enable_model_summary=false --trainer.logger.save_dir=runs --trainer.log_every_n_steps=1
--model.critic_warmup=0 --model.critic_steps=1 --model.num_frames=12 --data.num_clips=4
--data.video_frames=12 --data.clip_frames=12 --data.batch_size=2 --data.cache_folder=clips
""".split()  # noqa: SIM905


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder with the page's files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    sys.modules.pop("my_scorers", None)
    yield tmp_path
    sys.modules.pop("my_scorers", None)


def test_the_toy_recipe_trains_and_logs_the_reward(workplace):
    assert main(["fit", "--config=toy/self_forcing", "--config=rewarded.yaml", *SMALL]) == 0
    (table,) = workplace.rglob("metrics.csv")
    header, *rows = [line.split(",") for line in table.read_text().splitlines()]
    weights = [row[header.index("train/reward_weight")] for row in rows]
    assert any(0.0 < float(weight) <= 20.0 for weight in weights if weight)


class StandIn:
    """VideoAlign's interface: files and prompts in, dictionaries out. The score is the first frame's brightness."""

    def __init__(self, load_from_pretrained, load_from_pretrained_step=-1, device="cuda"):
        self.checkpoint = load_from_pretrained
        self.device = device

    def reward(self, video_paths, prompts, use_norm=True):
        assert use_norm
        assert prompts == ["dark", "light"]
        self.clips = [read_video(path) for path in video_paths]
        return [{"VQ": 9.0, "MQ": clip[0].float().mean().item(), "TA": 9.0} for clip in self.clips]


def test_the_adapter_hands_over_clips_and_prompts_in_their_order(workplace, monkeypatch):
    monkeypatch.setitem(sys.modules, "inference", SimpleNamespace(VideoVLMRewardInference=StandIn))
    reward = importlib.import_module("my_scorers").MotionQuality("folder")
    assert reward.scorer is None
    video = torch.tensor([0.2, 0.8])[:, None, None, None, None].expand(2, 5, 3, 16, 32)
    scores = reward(video, ("dark", "light"))
    assert [clip.shape for clip in reward.scorer.clips] == [(5, 3, 16, 32)] * 2
    torch.testing.assert_close(scores, torch.tensor([51.0, 204.0]), atol=3.0, rtol=0)
    assert (reward.scorer.checkpoint, reward.scorer.device) == ("folder", "cpu")


def test_the_large_recipe_takes_the_adapter(workplace, capsys):
    asked = ["fit", "--config=wan1.3b/reward_forcing", "--config=wan_rewarded.yaml"]
    assert main([*asked, "--print_config"]) == 0
    assert "my_scorers.MotionQuality" in capsys.readouterr().out
