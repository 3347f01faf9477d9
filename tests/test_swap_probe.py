"""The swap probe knows whose contents an anchor holds, for anchors of which one knows it by construction."""

import math

import pytest
import torch
from training_toy import ClipData, self_forcing, trainer

from lightning_adastate.anchors import (
    AdaptiveAnchor,
    ComposedAnchor,
    EMAAnchor,
    ReplacementAnchor,
    StaticAnchor,
)
from lightning_adastate.callbacks import SwapProbeMetrics
from lightning_adastate.evaluation.arms import Variation
from lightning_adastate.evaluation.comparison import with_variation
from lightning_adastate.evaluation.swap_probe import SwapProbe, shares, with_contents_of
from lightning_adastate.recipes.comparison import load_comparison

COMPARISON = load_comparison("toy/compare")
EPISODES = COMPARISON.world.episodes(6, 3, seed=11)


def probe(anchor, **options):
    found = SwapProbe(**{"after_chunks": 3, "num_chunks": 3, **options}).run(
        with_variation(COMPARISON.module, Variation(anchor)),
        EPISODES.prompts,
        start_video_BFCHW=EPISODES.video_BFCHW,
    )
    return found.readings


def test_shares_of_a_known_mixture_are_found():
    alone = torch.randn(5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    donors = torch.tensor([3, 0, 4, 1, 2])
    mixed = 0.3 * alone + 0.6 * alone[donors] + 7.0  # what all streams share has no say
    found = shares(mixed, alone, donors)
    assert found.own == pytest.approx(0.3, abs=1e-9)
    assert found.donor == pytest.approx(0.6, abs=1e-9)
    assert math.isnan(shares(mixed, torch.ones(5, 40), donors).donor)


def test_contents_come_from_the_donor_and_all_else_stays():
    module = with_variation(COMPARISON.module, Variation(StaticAnchor(1)))
    state = module.open_stream(EPISODES.prompts, start_video_BFCHW=EPISODES.video_BFCHW)
    state = next(iter(module.stream(state, 1))).state
    state = next(iter(module.stream(state, 1))).state
    donors = torch.tensor([1, 2, 3, 4, 5, 0])
    swapped = with_contents_of(state, donors)
    assert state.anchor
    for name, kv in state.anchor.items():
        assert torch.equal(swapped.anchor[name].value_LBFTND[:, 0], kv.value_LBFTND[:, 1])
        assert torch.equal(swapped.anchor[name].key_LBFTND[:, 5], kv.key_LBFTND[:, 0])
    assert swapped.blocks is state.blocks


def test_a_static_anchor_keeps_all_and_takes_nothing():
    for reading in probe(StaticAnchor(1)):
        assert reading.keep == pytest.approx(1.0, abs=1e-6)
        assert reading.take == pytest.approx(0.0, abs=1e-6)
        assert abs(reading.read) > 1e-3


def test_without_an_anchor_nothing_is_read_kept_or_taken():
    for reading in probe(StaticAnchor(0)):
        assert reading.read == 0.0
        assert math.isnan(reading.keep)
        assert math.isnan(reading.take)


def test_an_ema_forgets_by_its_decay_in_each_frame():
    """Three frames leave the window per chunk: the donor's share falls by the decay's third power."""
    kept = [reading.keep for reading in probe(EMAAnchor(1, decay=0.9))]
    assert kept == pytest.approx([0.9**3, 0.9**6, 0.9**9], abs=0.03)
    assert [reading.depth for reading in probe(EMAAnchor(1, decay=0.9))] == [1, 2, 3]


def test_a_replacement_takes_all_from_the_window():
    first = probe(ReplacementAnchor(1))[0]
    assert first.keep == pytest.approx(0.0, abs=0.02)
    assert first.take == pytest.approx(1.0, abs=0.02)


def test_every_kind_of_contents_can_be_swapped():
    composed = ComposedAnchor([StaticAnchor(1), EMAAnchor(1, decay=0.0)])
    reading = probe(composed)[0]
    assert 0.2 < reading.keep < 0.8
    assert not math.isnan(probe(AdaptiveAnchor(1))[0].keep)


def test_too_few_streams_or_chunks_are_refused():
    with pytest.raises(ValueError, match="a swap needs 3 streams or more, got 2"):
        SwapProbe().run(COMPARISON.module, EPISODES.prompts[:2])
    with pytest.raises(ValueError, match="`after_chunks` must be 1 or more, got 0"):
        SwapProbe(0)
    with pytest.raises(ValueError, match="a swap needs 3 streams or more, got 1"):
        SwapProbeMetrics("one prompt")


def test_a_comparison_prints_and_writes_the_shares(tmp_path):
    comparison = load_comparison(
        "toy/compare", ["--episodes=3", "--horizons=[9]", "--swap_after=2"]
    )
    compared = comparison.run({name: comparison.arms[name] for name in ("none", "static")})
    assert "swap.csv" in compared.write(tmp_path)
    rows = (tmp_path / "swap.csv").read_text().splitlines()
    assert rows[0] == "arm,depth,read,keep,take"
    assert [row.split(",")[:2] for row in rows[1:5]] == [["none", str(i)] for i in (1, 2, 3, 4)]
    static = [row.split(",") for row in rows if row.startswith("static")]
    assert {round(float(row[3]), 5) for row in static} == {1.0}


def test_training_does_not_notice_the_probe_and_logs_its_shares(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\nthree\nfour\n")
    ends, logged = [], {}
    for callbacks in ([], [SwapProbeMetrics(str(prompts), after_chunks=4, num_chunks=2)]):
        torch.manual_seed(1)
        model = self_forcing()
        run = trainer(tmp_path, max_epochs=2, callbacks=callbacks)
        run.fit(model, ClipData(6, val_count=2))
        ends.append((model.state_dict(), torch.get_rng_state()))
        logged = {name for name in run.callback_metrics if name.startswith("swap/")}
    (plain, plain_random), (probed, probed_random) = ends
    assert all(torch.equal(plain[name], probed[name]) for name in plain)
    assert torch.equal(plain_random, probed_random)
    assert logged == {"swap/read", "swap/keep", "swap/take", "swap/keep_last"}
