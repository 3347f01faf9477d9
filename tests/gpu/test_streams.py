"""Streams on a card: recorded, overlapped and with noise drawn ahead they are the plain stream."""

import pytest
import torch
from tiny import LATENT, streamer, text

from lightning_adastate.anchors import AdaptiveAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.overlapped import stream_overlapped
from lightning_adastate.streaming.pipeline import StreamPipeline
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.text import VocabularyEncoder
from lightning_adastate.weights.fingerprint import weights_fingerprint

pytestmark = pytest.mark.gpu


def begun():
    """A stream on the card whose window fills soon."""
    model = streamer().to("cuda")
    return model, model.start(text().cuda(), latent_shape=LATENT)


@pytest.mark.parametrize("compiled", ["never", "steady"])
def test_cuda_graphs_give_the_same_stream(compiled):
    model, state = begun()
    model.backbone.compile_blocks = compiled
    expected = [chunk.latents_BFCHW for chunk in model.stream(state, 12)]
    model.backbone.cuda_graphs = "steady"
    found = [chunk.latents_BFCHW for chunk in model.stream(state, 12)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def pipeline():
    """Prompts to pixels, on the card."""
    sizes = {"ffn_dim": 32, "num_heads": 2, "num_layers": 2, "in_channels": 12, "freq_dim": 16}
    backbone = WanTransformer(24, **sizes, patch_size=(1, 1, 1), text_dim=8, text_tokens=4)
    torch.nn.init.normal_(backbone.head.head.weight, std=0.1)
    cache, schedule = RelativisticCache(window_frames=2), FewStepSchedule(1, steps=(1000, 500))
    made = Streamer(backbone, anchor=AdaptiveAnchor(1), cache=cache, schedule=schedule)
    parts = {"codec": PixelShuffleCodec(2), "text_encoder": VocabularyEncoder(8, max_tokens=4)}
    return StreamPipeline(made, **parts, frame_size=(4, 6)).eval().to("cuda")


@pytest.mark.parametrize("graphs", ["never", "steady"])
def test_an_overlapped_stream_is_the_one_in_turn(graphs):
    model = pipeline()
    state = model.open_stream(["drifting west", "drifting east"], seed=3)
    expected = list(model.stream(state, 12))
    model.streamer.backbone.cuda_graphs = graphs
    found = list(stream_overlapped(model, state, 12))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.video_BFCHW, b.video_BFCHW, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_device_does_not_count_in_a_fingerprint(dtype):
    model = torch.nn.ParameterList([torch.randn(5_000_011), torch.randn(3, 5)]).to(dtype)
    assert weights_fingerprint(model) == weights_fingerprint(model.to("cuda"))


def test_a_rewards_parameters_are_moved_to_the_models_device(tmp_path):
    pytest.importorskip("lightning")
    from training_toy import ClipData, self_forcing, trainer

    from lightning_adastate.callbacks import RewardWeighting
    from lightning_adastate.rewards import FunctionReward

    class Learned(FunctionReward):
        """Have a parameter beside the function."""

        def __init__(self):
            super().__init__(lambda video, prompts: video.mean(dim=(1, 2, 3, 4)))
            self.offset = torch.nn.Parameter(torch.zeros(()))

        def forward(self, video_BFCHW, prompts):
            assert self.offset.device == video_BFCHW.device
            return super().forward(video_BFCHW, prompts) + self.offset

    run = trainer(tmp_path, callbacks=[RewardWeighting(Learned())], max_steps=1, accelerator="gpu")
    run.fit(self_forcing(), ClipData(2, val_count=0))
    assert run.callback_metrics["train/reward"].isfinite()
