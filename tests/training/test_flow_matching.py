"""Flow matching on real clips: parallel modes, and through the streaming window."""

import pytest
import torch
from tiny import LATENT, streamer, text
from training_toy import causal, flow_matching, loader, trainer

from lightning_adastate.anchors import AdaptiveAnchor, EMAAnchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.training import CausalFlowMatching


@pytest.mark.parametrize("mode", ["bidirectional", "diffusion_forcing", "teacher_forcing"])
def test_every_mode_trains(tmp_path, mode):
    model = flow_matching(mode=mode, context_frames=2, context_probability=0.5)
    trainer(tmp_path).fit(model, loader(), loader(4))
    assert model.global_step == 6


def test_causal_trains(tmp_path):
    model = causal(
        training_anchors=[StaticAnchor(0), StaticAnchor(1), EMAAnchor(1), AdaptiveAnchor(1)],
        context_noise=0.1,
    )
    trainer(tmp_path, max_epochs=2).fit(model, loader(), loader(4))
    assert model.global_step == 12


@pytest.mark.parametrize(
    ("count", "window", "chunk", "expected"),
    [
        (1, 6, 3, [[], [], [2], [5], [8]]),
        (3, 6, 3, [[], [], [0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        (2, 2, 1, [[], [], [0, 0], [0, 1], [1, 2]]),
        (1, 3, 3, [[], [2], [5], [8], [11]]),
    ],
)
def test_hidden_frames_stand_for_the_frames_just_before_the_window(count, window, chunk, expected):
    model = streamer(
        AdaptiveAnchor(count), RelativisticCache(window_frames=window), chunk_frames=chunk
    )
    state, seen = model.start(text(), latent_shape=LATENT), []
    for _ in range(5):
        seen.append(CausalFlowMatching.hidden_frames(model, state))
        state = model.prefill(state, torch.zeros(1, chunk, *LATENT))
    assert seen == expected
