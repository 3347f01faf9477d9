"""The attention probe: what the model really attended to, on the stream that would have been made anyway."""

from dataclasses import replace

import pytest
import torch
from tiny import LATENT, golden_backbone, text

from lightning_adastate.analysis.attention import frame_shares, probe_attention
from lightning_adastate.anchors import (
    AdaptiveAnchor,
    CompressedAnchor,
    EMAAnchor,
    SelectedAnchor,
    StaticAnchor,
    TriangularAnchor,
)
from lightning_adastate.backbones import wan_block
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.schedules import DiagonalSchedule, FewStepSchedule, RollingSchedule
from lightning_adastate.streaming.streamer import Streamer

ANCHORS = {
    "none": StaticAnchor(0),
    "static": StaticAnchor(1),
    "EMA": EMAAnchor(1),
    "triangular": TriangularAnchor(3, bank_frames=6),
    "adaptive": AdaptiveAnchor(1),
    "selected": SelectedAnchor(1, num_selected=1),
    "compressed": CompressedAnchor(1, num_packed=2, bank_frames=4, stride=(2, 2)),
}
SCHEDULES = {
    "few": FewStepSchedule(3, steps=(1000, 500)),
    "diagonal": DiagonalSchedule(3),
    "rolling": RollingSchedule(1, steps=(1000, 500)),
}


def model(anchor="static", schedule="few"):
    return Streamer(
        golden_backbone(),
        anchor=ANCHORS[anchor],
        cache=RelativisticCache(window_frames=6),
        schedule=SCHEDULES[schedule],
    )


def test_shares_are_those_of_a_softmax_by_hand():
    """Two queries, keys of 2 + 1 + 1 tokens: two frames that are read, and a live one."""
    query = torch.tensor([[1.0, 0.0], [0.0, 2.0]])[None, :, None]
    key = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])[None, :, None]
    e = torch.e
    root = 2**0.5
    first = torch.tensor([e ** (1 / root), 1.0, e ** (1 / root), 1.0])
    second = torch.tensor([1.0, e ** (2 / root), e ** (2 / root), 1.0])
    mass = (first / first.sum() + second / second.sum()) / 2
    share, context = frame_shares(query, key, [2, 1])
    torch.testing.assert_close(context, mass[None, :3].sum(1))
    expected = torch.stack([mass[:2].sum(), mass[2]]) / mass[:3].sum()
    torch.testing.assert_close(share[0], expected)


@pytest.mark.parametrize(
    ("anchor", "schedule"),
    [*((name, "few") for name in ANCHORS), ("static", "diagonal"), ("static", "rolling")],
)
def test_it_sees_what_the_model_attended_to_and_changes_nothing(monkeypatch, anchor, schedule):
    streamer = model(anchor, schedule)
    state = streamer.start(text(2), latent_shape=LATENT)
    expected = [chunk.latents_BFCHW for chunk in streamer.stream(state, 8)]
    calls, original = [], wan_block.attend

    def spy(query, key, value, **options):
        calls.append((query, key))
        return original(query, key, value, **options)

    monkeypatch.setattr(wan_block, "attend", spy)
    layers, checked = streamer.backbone.num_layers, 0
    for (chunk, seen), latents in zip(probe_attention(streamer, state, 8), expected, strict=True):
        torch.testing.assert_close(chunk.latents_BFCHW, latents, atol=2e-6, rtol=0)
        own = calls[::2]  # every other call is cross-attention
        passes = [own[i : i + layers] for i in range(0, len(own), layers)]
        with_context = [p for p in passes if p[0][1].shape[1] > p[0][0].shape[1]]
        assert len(with_context) == len(seen)
        for mass, made in zip(seen, with_context, strict=True):
            tokens = made[0][1].shape[1] - made[0][0].shape[1]
            for layer, (query, key) in enumerate(made):
                weights = torch.einsum("bsnd,bknd->bnsk", query, key) / query.shape[-1] ** 0.5
                part = weights.softmax(-1)[..., :tokens].sum(-1).mean((0, 2))
                torch.testing.assert_close(mass.context_LN[layer], part, atol=1e-5, rtol=0)
            sums = mass.share_LNF.sum(-1)
            torch.testing.assert_close(sums, torch.ones_like(sums))
            checked += 1
        calls.clear()
    assert checked >= 12


def test_a_share_belongs_to_the_frame_whose_keys_it_comes_from():
    """The newest cached frame's keys are set to zero; its share must change most."""
    streamer = model("static")
    state = streamer.start(text(), latent_shape=LATENT)
    *_, last = streamer.stream(state, 5)
    state = last.state
    block = state.blocks[-1]
    ((_, seen),) = probe_attention(streamer, state, 1)
    frame_indices = [frame.frame_index for frame in seen[0].frames]
    assert frame_indices == [0, *block.frame_indices]
    assert [frame.role for frame in seen[0].frames] == ["anchor", "cached", "cached", "cached"]
    assert [frame.place for frame in seen[0].frames] == [-6.0, -5.0, -4.0, -3.0]
    keys = block.key_LBFTND
    blank = replace(block, key_LBFTND=torch.cat([keys[:, :, :2], 0 * keys[:, :, 2:]], 2))
    ((_, zeroed),) = probe_attention(streamer, replace(state, blocks=(blank,)), 1)
    moved = (zeroed[0].by_frame - seen[0].by_frame).abs()
    assert moved.argmax() == 3


def test_the_anchors_rank_counts_frames_that_get_more():
    streamer = model("triangular")
    state = streamer.start(text(), latent_shape=LATENT)
    *_, (_, seen) = probe_attention(streamer, state, 9)
    mass = seen[-1]
    assert mass.num_anchor == 3
    strongest = mass.by_frame[:3].max().item()
    assert mass.anchor_rank == 1 + sum(share > strongest for share in mass.by_frame.tolist())


def test_timesteps_are_those_of_the_passes():
    streamer = model("adaptive")
    state = streamer.start(text(), latent_shape=LATENT)
    *_, (_, seen) = probe_attention(streamer, state, 4)
    assert [mass.timestep for mass in seen] == [
        one.timestep for one in streamer.schedule.passes(3)
    ]
    assert seen[-1].timestep == 0.0


def test_no_chunk_is_refused():
    streamer = model()
    state = streamer.start(text(), latent_shape=LATENT)
    with pytest.raises(ValueError, match="`num_chunks` must be 1 or more, got 0"):
        next(probe_attention(streamer, state, 0))
