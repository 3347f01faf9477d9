"""What `lay_out` reads back is what the classes do: contents by value, places by angle, costs by arithmetic."""

import functools
import importlib.util
from pathlib import Path

import pytest
import yaml

from lightning_adastate.analysis.layout import lay_out
from lightning_adastate.analysis.layout_pictures import layout_picture
from lightning_adastate.analysis.layout_text import describe, joint_passes
from lightning_adastate.analysis.operations import WAN_1_3B, chunk_cost, chunk_flops, pass_flops
from lightning_adastate.anchors import (
    AdaptiveAnchor,
    CompressedAnchor,
    EMAAnchor,
    SelectedAnchor,
    StaticAnchor,
    TriangularAnchor,
)
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.schedules import DiagonalSchedule, FewStepSchedule, RollingSchedule
from lightning_adastate.streaming.events import kv_flush, prompt_switch, restart, rope_cut

DOCS = Path(__file__).parent.parent / "docs"
CONFIGS = DOCS.parent / "configs"
TERA = 1e12


def of(slots, *roles):
    return [slot for slot in slots if slot.role in roles]


def words(chunk, kind="denoise"):
    seen = next(seen for seen in chunk.passes if seen.kind == kind)
    return {role: describe(of(seen.slots, role)) for role in sorted({s.role for s in seen.slots})}


def few(chunk_frames=3, **options):
    return FewStepSchedule(chunk_frames, **options)


def test_adastates_positions_are_those_of_the_paper():
    laid = lay_out(AdaptiveAnchor(1), RelativisticCache(window_frames=6), few(), 5)
    assert words(laid[1]) == {"cached": "0-2 @ 0..2", "live": "3-5 @ 3..5"}
    window = {"cached": "3-5 @ 2..4", "live": "6-8 @ 5..7"}
    assert words(laid[2]) == {"anchor": "0 @ 0", "state": "s2 @ 1", **window}
    window = {"cached": "9-11 @ 2..4", "live": "12-14 @ 5..7"}
    assert words(laid[4]) == {"anchor": "s3 @ 0", "state": "s4 @ 1", **window}
    assert [name for name, _ in joint_passes(laid[4])] == ["denoise 1000 938 833 625, commit"]
    assert laid[4].kept == 7


def test_an_average_is_read_back_with_its_weights():
    laid = lay_out(EMAAnchor(3, decay=0.9), RelativisticCache(budget_frames=9), few(), 5)
    first = of(laid[4].passes[0].slots, "anchor")[0]
    assert [label.number for label, _ in first.shares] == [0, 3, 6]
    assert [share for _, share in first.shares] == pytest.approx([0.81, 0.09, 0.1], abs=1e-6)


def test_a_bank_is_walked_forwards_then_backwards():
    anchor = TriangularAnchor(3, bank_frames=6)
    laid = lay_out(anchor, SlidingCache(budget_frames=9), few(), 8)
    shown = [
        [slot.shares[0][0].number for slot in of(chunk.passes[0].slots, "anchor")]
        for chunk in laid[3:]
    ]
    assert shown == [[3, 4, 5], [5, 4, 3], [2, 1, 0], [0, 1, 2], [3, 4, 5]]
    assert [slot.first for slot in laid[6].passes[0].slots] == list(range(12, 21))


def test_a_switch_encodes_the_newest_frames_anew_behind_the_sink():
    switch = [prompt_switch(5, 1, "recache", frames=9)]
    laid = lay_out(StaticAnchor(3), SlidingCache(budget_frames=12), few(), 6, switch)
    assert [seen.kind for seen in laid[5].passes] == ["encode", "denoise", "commit"]
    assert words(laid[5], "encode") == {"anchor": "0-2 @ 0..2", "live": "6-14 @ 6..14"}
    assert words(laid[5])["cached"] == "9'-14' @ 9..14"
    assert laid[5].events == tuple(switch)


def test_an_early_switch_rewrites_the_sink_and_a_rebase_moves_it():
    cache = SlidingCache(budget_frames=12)
    early = [prompt_switch(2, 1, "recache", frames=3)]
    laid = lay_out(StaticAnchor(3), cache, few(), 5, early)
    assert words(laid[4])["anchor"] == "0'-2' @ 0..2"
    rebase = [prompt_switch(5, 1, "rebase", frames=12)]
    laid = lay_out(StaticAnchor(3), cache, few(), 6, rebase)
    assert words(laid[5])["anchor"] == "3'-5' @ 3..5"


def test_a_cut_moves_the_live_frames_alone_and_a_flush_leaves_two():
    cache = RelativisticCache(budget_frames=12)
    laid = lay_out(StaticAnchor(1), cache, few(), 7, [rope_cut(5), kv_flush(6)])
    assert words(laid[5])["live"] == "15-17 @ 45..47"
    assert words(laid[6]) == {"anchor": "0 @ 0", "cached": "16-17 @ 1..2", "live": "18-20 @ 3..5"}


def test_restarts_come_again_and_again():
    laid = lay_out(StaticAnchor(0), SlidingCache(budget_frames=21), few(), 14, [restart(6)])
    assert [chunk.index for chunk in laid if chunk.events] == [7, 13]
    assert words(laid[13])["cached"] == "36'-38' @ 36..38"


def test_rolling_forcing_denoises_ahead_and_its_clean_pass_reads_something_else():
    cache = RelativisticCache(budget_frames=21, history_frames=15)
    laid = lay_out(StaticAnchor(3), cache, RollingSchedule(warp=False, commit_window=18), 8)
    assert [name for name, _ in joint_passes(laid[7])] == ["denoise 200", "commit"]
    assert len(laid[0].passes) == 6
    denoise, commit = laid[7].passes
    levels = [slot.timestep for slot in of(denoise.slots, "live", "ahead")]
    assert levels == [level for level in (200, 400, 600, 800, 1000) for _ in range(3)]
    assert words(laid[7])["anchor"] == "0-2 @ 0..2"
    assert words(laid[7], "commit")["history"] == "3-17 @ -12..2"
    assert not of(commit.slots, "anchor", "ahead")
    assert commit.num_keys == 21
    assert laid[7].kept == 24


def test_a_cache_of_the_last_pass_is_noisy():
    schedule = DiagonalSchedule(3, steps=[[1000, 500], [1000, 357]], warp=False)
    laid = lay_out(StaticAnchor(0), SlidingCache(budget_frames=9), schedule, 3)
    assert words(laid[2])["cached"] == "0~500-2~500 @ 0..2, 3~357-5~357 @ 3..5"
    assert [seen.timesteps for seen in laid[2].passes] == [(1000, 357)]


def test_selected_tokens_come_from_several_frames_and_may_stay_at_their_birth():
    for index in ("slot", "frame"):
        anchor = SelectedAnchor(4, num_selected=2, index=index)
        laid = lay_out(
            anchor, SlidingCache(budget_frames=12, compress_to=9), few(), 7, grid=(3, 4)
        )
        picked = of(laid[6].passes[0].slots, "anchor")[4:]
        assert len(picked) == 2
        for slot in picked:
            assert len(slot.shares) > 1
            assert sum(share for _, share in slot.shares) == pytest.approx(1)
            frame_indices = [label.number for label, _ in slot.shares]
            ends = (min(frame_indices), max(frame_indices))
            assert ((slot.first, slot.last) == ends) == (index == "frame")


def test_packed_frames_count_by_their_tokens():
    anchor = CompressedAnchor(2, num_packed=4, bank_frames=8, stride=(4, 8))
    laid = lay_out(anchor, RelativisticCache(window_frames=6), few(2), 9, grid=(8, 16))
    seen = laid[8].passes[0]
    packed = [slot for slot in seen.slots if slot.tokens < 1]
    assert [slot.tokens for slot in packed] == [4 / 128] * 4
    assert seen.num_keys == 2 + 4 * 4 / 128 + 6


def test_a_long_stream_keeps_exact_places():
    laid = lay_out(StaticAnchor(3), SlidingCache(budget_frames=9), few(steps=(1000,)), 300)
    last = laid[-1].passes[0].slots
    assert [slot.first for slot in last] == [0, 1, 2, *range(894, 900)]


def test_no_chunk_is_refused():
    with pytest.raises(ValueError, match="num_chunks"):
        lay_out(StaticAnchor(1), RelativisticCache(budget_frames=6), few(), 0)


@pytest.mark.parametrize(
    ("budget", "linear_and_attention", "total"),
    [(6, 99, 101.2), (9, 119, 121.3), (12, 139, 141.5), (21, 200, None)],
)
def test_operations_are_those_of_the_notes(budget, linear_and_attention, total):
    """Rounded numbers of our notes (without text and embeddings), and of an independent roofline (with)."""
    laid = lay_out(StaticAnchor(1), RelativisticCache(budget_frames=budget), few(), 9, grid=(1, 1))
    flops = chunk_flops(WAN_1_3B, laid[-1])
    assert (flops.linear + flops.self_attention) / TERA == pytest.approx(
        linear_and_attention, abs=0.6
    )
    if total is not None:
        assert flops.total / TERA == pytest.approx(total, abs=0.06)


def test_a_pass_of_one_more_query_frame_costs_what_the_roofline_says():
    assert pass_flops(WAN_1_3B, 4, 10).total / TERA == pytest.approx(34.15, abs=0.006)
    assert pass_flops(WAN_1_3B, 3, 24).total / TERA == pytest.approx(44.45, abs=0.006)
    assert pass_flops(WAN_1_3B, 3, 12).self_attention / TERA == pytest.approx(16.148, abs=6e-4)


@pytest.mark.parametrize(("frames", "giga"), [(6, 1.73), (9, 2.59), (12, 3.45), (21, 6.04)])
def test_bytes_are_those_of_the_notes(frames, giga):
    laid = lay_out(StaticAnchor(1), RelativisticCache(budget_frames=frames), few(), 9, grid=(1, 1))
    assert chunk_cost(WAN_1_3B, laid[-1]).attended_bytes / 1e9 == pytest.approx(giga, abs=6e-3)


def test_a_switch_costs_one_more_pass():
    switch = [prompt_switch(5, 1, "recache", frames=9)]
    laid = lay_out(StaticAnchor(3), SlidingCache(budget_frames=12), few(), 6, switch, grid=(1, 1))
    plain, with_switch = (chunk_cost(WAN_1_3B, chunk) for chunk in laid[4:])
    assert (plain.passes, with_switch.passes) == (5, 6)
    extra = with_switch.flops.total - plain.flops.total
    assert extra == pass_flops(WAN_1_3B, 9, 12).total


def test_the_geometry_is_that_of_the_shipped_backbone():
    shipped = yaml.safe_load((CONFIGS / "backbones" / "wan1.3b.yaml").read_text())["init_args"]
    ours = WAN_1_3B
    sizes = {name: shipped[name] for name in ("dim", "ffn_dim", "num_heads", "num_layers")}
    assert sizes == {name: getattr(ours, name) for name in sizes}
    assert (ours.rows, ours.columns, ours.tokens) == (480 // 16, 832 // 16, 1560)


def test_a_picture_is_written(tmp_path):
    laid = lay_out(AdaptiveAnchor(1), RelativisticCache(window_frames=6), few(), 3)
    layout_picture(tmp_path / "deep" / "layout.png", laid, title="AdaState")
    assert (tmp_path / "deep" / "layout.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="chunks"):
        layout_picture(tmp_path / "layout.png", [])


@functools.cache
def drawer():
    spec = importlib.util.spec_from_file_location("drawer", DOCS / "draw_mechanisms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_docs_say_what_the_classes_do():
    """All pages in one test: the table of the index needs what every page needs, and is made once."""
    pages = sorted((DOCS / "mechanisms").glob("*.md"))
    old = [path.name for path in pages if drawer().generated(path) != path.read_text()]
    assert pages
    assert not old, "run python docs/draw_mechanisms.py"


def test_every_mechanism_has_a_page_and_a_picture():
    module = drawer()
    assert {path.stem for path in module.CONFIGS.glob("*.yaml")} == set(module.MECHANISMS)
    index = (DOCS / "mechanisms" / "index.md").read_text()
    nav = (DOCS.parent / "mkdocs.yml").read_text()
    for name, page in module.MECHANISMS.items():
        assert (
            f"<!-- generated: {name} -->"
            in (DOCS / "mechanisms" / f"{page.page or name}.md").read_text()
        )
        assert (DOCS / "mechanisms" / f"{name}.png").is_file()
        assert f"({page.page or name}.md)" in index
        assert f"mechanisms/{page.page or name}.md" in nav
