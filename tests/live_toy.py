"""A live session at tiny size: random weights, the shipped toy's shapes, two anchors."""

import torch

from lightning_adastate.anchors import AdaptiveAnchor, StaticAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.serve import LiveSession, PromptOpening
from lightning_adastate.streaming import Streamer, StreamPipeline
from lightning_adastate.text import VocabularyEncoder


def modules():
    """What streams, by the name of its anchor; all but the anchor is shared."""
    torch.manual_seed(3)
    backbone = WanTransformer(
        32,
        ffn_dim=64,
        num_heads=2,
        num_layers=2,
        in_channels=12,
        freq_dim=16,
        text_dim=8,
        text_tokens=8,
    )
    for parameter in backbone.parameters():  # some begin at zero, and anchors would not matter
        torch.nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    parts = {"codec": PixelShuffleCodec(2), "text_encoder": VocabularyEncoder(8)}

    def streaming(anchor):
        streamer = Streamer(
            backbone,
            anchor=anchor,
            cache=RelativisticCache(window_frames=6),
            schedule=FewStepSchedule(3, steps=[1000, 500], shift=1.0),
        ).eval()
        return StreamPipeline(streamer, **parts, frame_size=(8, 16))

    return {"static": streaming(StaticAnchor(1)), "adaptive": streaming(AdaptiveAnchor(1))}


def session(**options):
    """A session that has made nothing yet."""
    return LiveSession(modules(), PromptOpening("drifting slowly west"), **options)


def videos(session, chunks):
    """The next chunks, one list of videos per lane."""
    made = [session.step() for _ in range(chunks)]
    return [
        torch.cat([each[lane].chunk.video_FCHW for each in made]) for lane in range(len(made[0]))
    ]
