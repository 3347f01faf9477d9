"""What the benchmarks compare is equal."""

import itertools
import sys
from pathlib import Path

import torch
from tiny import LATENT, golden_backbone, text

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streamer import Streamer


def test_the_plain_stream_makes_the_same_video(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    from plain import PlainStream

    backbone, schedule = golden_backbone(), FewStepSchedule(3)
    cache = RelativisticCache(budget_frames=12)
    streamer = Streamer(backbone, anchor=StaticAnchor(3), cache=cache, schedule=schedule)
    ours = streamer.stream(streamer.start(text(), latent_shape=LATENT))
    plain = PlainStream(backbone, schedule, sink=3, budget=12).stream(text(), LATENT)
    for a, b in itertools.islice(zip(ours, plain, strict=False), 7):
        torch.testing.assert_close(a.latents_BFCHW, b, rtol=0, atol=1e-5)
    sys.modules.pop("plain", None)
