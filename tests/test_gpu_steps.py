"""The steps of a GPU's measurements run, keep what they find, and only a GPU's rows reach the page."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from tiny import LATENT, golden_backbone, text

from lightning_adastate.streaming.streamer import Streamer

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu_steps.sh"
PAGE = ROOT / "docs" / "performance.md"
H200 = "NVIDIA H200"


def row(script, **changed):
    """A row of the 1.3B network as the goals ask for it."""
    fixed = {"model": "1.3B", "scope": "DiT", "path": "compiled", "device": H200}
    fixed |= {"dtype": "bfloat16", "attention": "sdpa", "cached_frames": 3, "anchor": "state"}
    fixed |= {"streams": 1, "ms": 200.0, "frames": 12, "bound_ms": 140.0}
    return script("rows").Row(**fixed | changed)


def words(script, *rows):
    return [verdict.word for verdict in script("goals").judge(rows)]


def step_file(script, folder, rows, **changed):
    """A file as a step on an H200 leaves it."""
    script("rows").write(
        folder / "step2.json", rows, {"step": 2, "small": False, "parts": {}, "left_out": {}}
    )
    whole = json.loads((folder / "step2.json").read_text())
    machine = {"cuda": H200, "commit": "0123456789abcdef0123456789abcdef01234567", "torch": "2.11"}
    whole["machine"] |= machine | changed.pop("machine", {})
    whole["own"] |= changed
    (folder / "step2.json").write_text(json.dumps(whole))
    return folder / "step2.json"


def test_the_judge_demands_adastates_frame_3_cached_ones_and_the_video_file(script):
    whole = {"scope": "end to end", "ms": 300.0, "bound_ms": 250.0}
    good = row(script, path="compiled, exact, overlapped, written", **whole)
    assert words(script, good)[3] == "met"
    for changed in (
        {"anchor": "none"},
        {"cached_frames": 6},
        {"path": "compiled, exact, overlapped"},
        {"path": "compiled, tiny, overlapped, written"},
        {"model": "small"},
        {"device": "NVIDIA H100"},
    ):
        other = row(script, **{"path": good.path, **whole, **changed})
        assert words(script, other)[3] == "not run", changed
    assert words(script, row(script, anchor="none"))[0] == "not run"


def test_the_judge_compares_chunk_10000_with_chunk_20_and_nothing_earlier(script):
    early = row(script, path="compiled, chunk 20", bound_ms=None)
    assert words(script, early, row(script, path="compiled, chunk 500"))[5] == "not run"
    late = row(script, path="compiled, chunk 10000", ms=205.0)
    assert words(script, early, late)[5] == "missed"
    assert words(script, early, row(script, path="compiled, chunk 10000", ms=203.0))[5] == "met"


def test_the_judge_wants_the_14b_teacher_in_the_training_step(script):
    step = {"scope": "training step", "bound_ms": None, "frames": None, "peak_mb": 110e3}
    assert words(script, row(script, model="1.3B + 1.3B + 14B", **step))[6] == "met"
    assert words(script, row(script, model="1.3B + 1.3B + tiny", **step))[6] == "not run"
    step["peak_mb"] = 140e3  # 146.8 GB
    assert words(script, row(script, model="1.3B + 1.3B + 14B", **step))[6] == "missed"


def test_the_report_has_every_row_its_share_and_where_it_was_measured(script, tmp_path):
    file = step_file(script, tmp_path, [row(script)], left_out={"9 cached": "no time was left"})
    made = script("report").report([file])
    assert "| DiT, 3 cached + state, share of the bound | >= 0.65 | 0.7 | met |" in made
    assert "| 200.0 | 140.0 | 70.0% | 60.0 | - | NVIDIA H200, torch 2.11, 012345678 |" in made
    assert "- Step 2, 9 cached: not run (no time was left)." in made


@pytest.mark.parametrize(
    ("changed", "device", "reason"),
    [
        ({"machine": {"cuda": None}}, "AMD EPYC, 1 threads", "is of 'AMD EPYC, 1 threads'"),
        ({}, "AMD EPYC, 1 threads", "is of 'AMD EPYC, 1 threads'"),
        ({"small": True}, H200, "is of toy size"),
        ({"machine": {"commit": None}}, H200, "does not know its commit"),
    ],
    ids=["no card", "a processor's row beside a card", "toy size", "no commit"],
)
def test_what_no_gpu_measured_is_refused_and_the_page_stays(
    script, tmp_path, capsys, monkeypatch, changed, device, reason
):
    report = script("report")
    file = step_file(script, tmp_path, [row(script, device=device)], **changed)
    page = tmp_path / "page.md"
    page.write_text(f"a\n{report.BEGIN}\nold\n{report.END}\nb\n")
    monkeypatch.setattr("sys.argv", ["report.py", str(file), "--into", str(page)])
    assert report.main() == 2
    assert reason in capsys.readouterr().err
    assert "old" in page.read_text()


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"rows": [], "own": {}, "machine": {}}'])
def test_a_file_of_something_else_is_named(script, tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match="x.json is no JSON of benchmarks/gpu_steps.sh"):
        script("report").measured(tmp_path / "x.json")


def test_the_page_holds_what_the_report_makes_of_the_files_that_are_kept(script):
    """So nobody can type a number, or a prediction, into a result's place."""
    report = script("report")
    files = sorted((ROOT / "docs" / "gpu").glob("*.json"))
    _, _, rest = PAGE.read_text().partition(report.BEGIN)
    assert rest.partition(report.END)[0].strip() == report.report(files)


def test_a_page_without_marks_is_refused(script, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match="has no lines"):
        script("report").put_into(page, "x")


def test_rows_of_finished_parts_are_kept_and_the_rest_is_named(script, tmp_path, monkeypatch):
    steps = script("gpu_steps")
    seen = []

    def broken():
        seen.extend(json.loads((tmp_path / "step2.json").read_text())["rows"])
        raise RuntimeError("out of memory\nmore")

    parts = {"first": lambda: ([row(script)], {"n": 1}), "second": broken}
    monkeypatch.setitem(steps.STEPS, 2, lambda scale, folder: parts)
    left_out = steps.run(2, steps.SMALL, tmp_path, 60.0)
    assert left_out == {"second": "RuntimeError: out of memory"}
    assert len(seen) == 1  # it was on the disk before the next part began
    whole = json.loads((tmp_path / "step2.json").read_text())
    assert whole["own"]["left_out"] == left_out
    assert whole["machine"]["torch"] == torch.__version__
    assert len(whole["machine"]["commit"]) >= 40
    assert steps.run(2, steps.SMALL, tmp_path, -1.0) == {
        "first": "no time was left",
        "second": "no time was left",
    }


def test_a_step_whose_packages_are_missing_says_so(script, tmp_path, monkeypatch):
    steps = script("gpu_steps")

    def parts(scale, folder):
        raise ImportError("No module named 'diffusers'")

    monkeypatch.setitem(steps.STEPS, 3, parts)
    left_out = steps.run(3, steps.SMALL, tmp_path, 60.0)
    assert left_out == {"all": "ImportError: No module named 'diffusers'"}


def test_a_jumped_stream_reads_the_same_window_at_the_same_places(script):
    """Chunk 10,000 without 10,000 chunks: frame indices move, contents and temporal indices do not."""
    late, models = script("gpu_late"), script("models")
    streamer: Streamer = models.streamer_of(golden_backbone(), 3, "state")
    state = streamer.start(text(), latent_shape=LATENT)
    with torch.no_grad():
        for _ in range(4):
            state = streamer.step(state).state
        far = late.jumped(state, 10_000)
        assert far.first_frame == 30_000
        assert far.cached_frame_indices == tuple(range(29_994, 30_000))
        here, there = streamer.plan(state).positions, streamer.plan(far).positions
        origin, far_origin = here.live.key[-1], there.live.key[-1]
        assert [p - origin for p in here.cached] == [p - far_origin for p in there.cached]
        assert [p - origin for p in here.anchor] == [p - far_origin for p in there.anchor]
        assert streamer.step(far).state.first_frame == 30_003


@pytest.mark.parametrize("argument", ["7", "", "two"])
def test_the_shell_refuses_what_is_no_step(argument):
    done = subprocess.run([SCRIPT, argument], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"give a step from 1 to 6, or prepare; got '{argument}'" in done.stderr


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(2, marks=pytest.mark.slow),
        *(pytest.param(step, marks=pytest.mark.nightly) for step in (1, 3, 4, 5, 6)),
    ],
)
def test_every_step_runs_at_toy_size_and_the_report_refuses_it(
    script, tmp_path, monkeypatch, step
):
    monkeypatch.setitem(script("bound").SQUARES, "cpu", (256,))
    monkeypatch.setattr(script("codec"), "TINY_WIDTHS", (8, 8, 8, 8))
    latent = (16, 4, 6)
    tiny = script("models").SIZES["tiny"]._replace(latent=latent)
    monkeypatch.setitem(script("models").SIZES, "tiny", tiny)
    steps = script("gpu_steps")
    assert steps.run(step, steps.SMALL._replace(chunks=1), tmp_path, 500.0) == {}
    whole = json.loads((tmp_path / f"step{step}.json").read_text())
    assert whole["rows"]
    assert all(each["ms"] > 0 for each in whole["rows"])
    with pytest.raises(ValueError, match="cannot stand in a table of GPUs"):
        script("report").measured(tmp_path / f"step{step}.json")
