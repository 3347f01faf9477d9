"""What the benchmarks compare is equal, and what they count is right."""

import argparse
import importlib.util
import itertools
import json
import sys
from pathlib import Path

import pytest
import torch
from tiny import LATENT, golden_backbone, text

from lightning_adastate.analysis.operations import WAN_1_3B, pass_flops
from lightning_adastate.anchors import AdaptiveAnchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.codecs import wan_fast, wan_plain
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.buffers import StreamBuffers
from lightning_adastate.streaming.streamer import Streamer

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CPU = torch.device("cpu")


def test_the_plain_stream_makes_the_same_video(script):
    backbone, schedule = golden_backbone(), FewStepSchedule(3)
    cache = RelativisticCache(budget_frames=12)
    streamer = Streamer(backbone, anchor=StaticAnchor(3), cache=cache, schedule=schedule)
    ours = streamer.stream(streamer.start(text(), latent_shape=LATENT))
    plain = script("plain").PlainStream(backbone, schedule, sink=3, budget=12)
    for a, b in itertools.islice(zip(ours, plain.stream(text(), LATENT), strict=False), 7):
        torch.testing.assert_close(a.latents_BFCHW, b, rtol=0, atol=1e-5)


def test_the_plain_stream_makes_the_same_video_without_a_sink_for_two_prompts(script):
    """As benchmarks/wan.py runs it."""
    models = script("models")
    streamer = models.streamer_of(golden_backbone(), 3, "none")
    ours = streamer.stream(streamer.start(text(2), latent_shape=LATENT))
    plain = script("plain").PlainStream(streamer.backbone, streamer.schedule, sink=0, budget=6)
    for a, b in itertools.islice(zip(ours, plain.stream(text(2), LATENT), strict=False), 5):
        torch.testing.assert_close(a.latents_BFCHW, b, rtol=0, atol=1e-5)


def test_the_floor_has_the_products_of_a_chunk_of_a_full_window(script):
    bound, backbone, schedule = script("bound"), golden_backbone(), FewStepSchedule(3)
    cache = RelativisticCache(budget_frames=12)
    streamer = Streamer(backbone, anchor=StaticAnchor(3), cache=cache, schedule=schedule)
    floor = script("floor").Floor(backbone, schedule, 12, text(), LATENT).stream()
    counted = bound.counted(lambda: next(floor))
    assert counted == bound.chunk_flops(streamer, LATENT)


@pytest.mark.parametrize("anchor", [StaticAnchor(1), AdaptiveAnchor(1)], ids=["static", "state"])
def test_the_bound_counts_what_a_chunk_of_a_full_window_computes(script, anchor):
    bound = script("bound")
    cache = RelativisticCache(window_frames=6)
    schedule = FewStepSchedule(3)
    streamer = Streamer(golden_backbone(), anchor=anchor, cache=cache, schedule=schedule)
    state, buffers = streamer.start(text(2), latent_shape=LATENT), StreamBuffers()
    with torch.no_grad():
        for _ in range(5):
            state = streamer.step(state, buffers=buffers).state
        counted = bound.counted(lambda: streamer.step(state, buffers=buffers))
    assert bound.chunk_flops(streamer, LATENT, streams=2) == counted


def test_operations_of_wan_are_those_of_the_independent_table():
    """The roofline script of our notes: a pass of 3 frames at 9 cached ones, 480 x 832."""
    assert pass_flops(WAN_1_3B, 3, 12).total == pytest.approx(28.305e12, rel=1e-4)


@pytest.mark.parametrize("way", [wan_plain, wan_fast], ids=["plain", "fast"])
def test_operations_of_wans_vae_are_those_of_the_independent_table(script, way):
    """40.65 TFLOP for 12 frames of 480 x 832 from the same script; counted here without memory."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    with torch.device("meta"), torch.no_grad():
        vae = AutoencoderKLWan().eval()
        latents = torch.empty(1, 16, 3, 60, 104)
        _, memory = way.decode_frames(vae, latents, {})
        counted = script("bound").counted(lambda: way.decode_frames(vae, latents, memory))
    assert counted == pytest.approx(40.65e12, rel=1e-4)


def test_the_rate_is_that_of_the_products_timed(script):
    rate = script("bound").MatmulRate(CPU, torch.float32, tries=1)
    rate.times = [4.0, 1.0, 2.0]
    assert rate.flops_per_second == pytest.approx(2 * rate.side**3 / 2e-3)
    assert rate.bound_ms(rate.flops_per_second / 10) == pytest.approx(100.0)


def test_a_row_says_frames_per_second_and_share_and_survives_its_file(script, tmp_path):
    rows = script("rows")
    row = rows.Row(
        "1.3B",
        "DiT",
        "eager",
        "a GPU",
        "bfloat16",
        "sdpa",
        9,
        "state",
        2,
        240.0,
        12,
        bound_ms=60.0,
    )
    assert row.fps == pytest.approx(100.0)  # 2 streams of 12 frames in 0.24 s
    assert row.share == pytest.approx(0.25)
    rows.write(tmp_path / "rows.json", [row], {"own": 1})
    assert rows.read(tmp_path / "rows.json") == ([row], {"own": 1})
    assert json.loads((tmp_path / "rows.json").read_text())["rows"][0]["share"] == 0.25


def wan_arguments(**changed):
    """The arguments of a run of seconds."""
    wanted = {
        "device": "cpu",
        "model": "tiny",
        "dtype": "float32",
        "windows": [3],
        "whole_windows": [3],
        "anchors": ["none", "state"],
        "modes": ["plain", "eager"],
        "attention": None,
        "parts": ["dit", "vae", "whole"],
        "streams": 1,
        "chunks": 2,
        "late": 21,
    }
    return argparse.Namespace(**wanted | changed)


@pytest.mark.slow
def test_the_script_for_wan_runs_on_a_cpu_and_fills_all_columns(script, monkeypatch):
    monkeypatch.setattr(script("codec"), "TINY_WIDTHS", (8, 8, 8, 8))
    monkeypatch.setitem(script("bound").SQUARES, "cpu", (256,))
    rows = script("wan").measure(wan_arguments())
    scopes = [(row.scope, row.anchor, row.path) for row in rows]
    assert scopes[:3] == [
        ("DiT", "none", "plain"),
        ("DiT", "none", "eager"),
        ("DiT", "state", "eager"),
    ]
    assert {row.path for row in rows if row.scope == "VAE"} == {"plain", "fast", "tiny", "linear"}
    whole = [row for row in rows if row.scope == "end to end"]
    assert len(whole) == 2 * 3 * 2  # anchors, decoders, one after the other and overlapped
    for row in rows:
        assert row.ms > 0
        assert row.fps > 0
        if "chunk " not in row.path:
            assert row.share > 0
        if "overlapped" not in row.path and "chunk " not in row.path:
            assert row.first_ms > 0
            assert row.peak_mb > 0


def test_a_row_names_the_kernel_and_says_that_graphs_could_not_be_recorded(script, monkeypatch):
    monkeypatch.setitem(script("bound").SQUARES, "cpu", (256,))
    only = {"modes": ["eager", "graphs"], "anchors": ["none"], "parts": ["dit"], "late": 0}
    only["attention"] = ["auto"]
    rows = script("wan").measure(wan_arguments(**only))
    assert [row.path for row in rows] == ["eager", "graphs (ran plain)"]
    assert {row.attention for row in rows} == {"sdpa"}


def test_goals_are_not_run_on_a_cpu_and_judged_on_an_h200(script):
    rows, goals = script("rows"), script("goals")
    made = {}
    for device in ("a processor, 2 threads", "NVIDIA H200"):
        fixed = {"device": device, "dtype": "bfloat16", "attention": "sdpa", "streams": 1}
        fixed |= {"cached_frames": 3, "anchor": "state", "frames": 12}
        dit = rows.Row("1.3B", "DiT", "compiled", ms=200.0, bound_ms=140.0, **fixed)
        slow = rows.Row("1.3B", "DiT", "eager", ms=400.0, bound_ms=140.0, **fixed)
        vae = rows.Row(
            "Wan VAE 96",
            "VAE",
            "fast",
            ms=160.0,
            **fixed | {"cached_frames": None, "anchor": None},
        )
        late = [
            rows.Row("1.3B", "DiT", f"eager, chunk {n}", ms=ms, **fixed)
            for n, ms in ((20, 200.0), (10000, 203.0))
        ]
        made[device] = goals.print_goals([dit, slow, vae, *late])
    first, second = made.values()
    assert {row["verdict"] for row in first.values()} == {"not run"}
    verdicts = [row["verdict"] for row in second.values()]
    assert verdicts == ["met", "not run", "missed", "not run", "not run", "met", "not run"]


def attention_arguments(**changed):
    wanted = {"device": "cpu", "dtype": "float32", "tokens": 6, "heads": 2, "kernels": None}
    wanted |= {"keys": [6, 9], "masked": 6, "check": 1, "rounds": 1}
    return argparse.Namespace(**wanted | changed)


def test_attention_kernels_are_compared_with_float64(script, monkeypatch):
    attention = script("attention")
    monkeypatch.setattr(attention, "MASKED", ("sdpa",))  # flex compiles
    rows, own = attention.measure(attention_arguments())
    assert [row["keys"] for row in own] == [6, 9, 6]
    assert all(row["error"] < 2e-6 for row in own)
    assert [row.cached_frames for row in rows] == [3, 6, None]


@pytest.mark.nightly
def test_flex_attention_is_compared_under_the_causal_mask(script):
    rows, own = script("attention").measure(attention_arguments(keys=[], tokens=50))
    assert [row.attention for row in rows] == ["sdpa", "flex"]
    assert all(row["error"] < 2e-6 for row in own)


def test_the_error_of_attention_sees_a_wrong_mask(script):
    attention = script("attention")
    sizes = attention.Sizes(attention_arguments(tokens=4))
    parts = (sizes.frames(2), sizes.frames(2), sizes.frames(2))
    made = attention.attend(*parts, mask=None, kernels=("sdpa",))
    half = torch.ones(8, 8, dtype=torch.bool).tril()
    assert sizes.error(made, parts, None) < 2e-6
    assert sizes.error(made, parts, half) > 1e-2


def test_every_chunk_of_a_full_window_allocates_the_same(script):
    found = script("allocations").measure("tiny", 3, "state", ["eager"], CPU, "float32")
    (row,) = found.values()
    assert row["allocations"] == row["next_allocations"] > 0
    assert row["operations"] == row["next_operations"] > 0
    assert row["difference"] == 0.0


@pytest.mark.nightly
def test_a_compiled_chunk_allocates_less_and_equals_the_plain_one(script):
    modes = ["eager", "compiled"]
    found = script("allocations").measure("tiny", 3, "state", modes, CPU, "float32")
    assert found["compiled"]["allocations"] < found["eager"]["allocations"]
    assert 0.0 < found["compiled"]["difference"] < 1e-4


def test_one_command_runs_scripts_that_are_there_and_keeps_their_rows(
    script, monkeypatch, tmp_path
):
    spec = importlib.util.spec_from_file_location("all_benchmarks", BENCHMARKS / "__main__.py")
    script("rows")
    whole = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(whole)
    assert {*whole.CPU, *whole.CUDA} <= {path.stem for path in BENCHMARKS.glob("*.py")}
    assert set(whole.CUDA) == set(whole.ON_CUDA)
    made = tmp_path / "all.json"
    monkeypatch.setitem(whole.CPU, "attention", ["--rounds", "1", "--keys", "6", "--masked", "0"])
    arguments = ["benchmarks", "--quick", "--only", "attention", "--json", str(made)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert whole.main() == 0
    written = json.loads(made.read_text())
    assert [row["scope"] for row in written["rows"]] == ["attention"]
    assert written["machine"]["torch"] == torch.__version__


def test_a_script_that_fails_is_named_and_nothing_is_made_up(
    script, monkeypatch, tmp_path, capsys
):
    spec = importlib.util.spec_from_file_location("all_benchmarks", BENCHMARKS / "__main__.py")
    script("rows")
    whole = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(whole)
    monkeypatch.setattr(whole, "run", lambda name, arguments: None)
    made = tmp_path / "all.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "wan", "--json", str(made)])
    assert whole.main() == 1
    assert "failed: wan" in capsys.readouterr().out
    assert json.loads(made.read_text())["rows"] == []
