"""What a stream may not do once its window is full: wait for the device, allocate more, change shapes."""

import logging
from dataclasses import replace

import pytest
import torch
from tiny import LATENT, golden_backbone, text
from torch.utils._python_dispatch import TorchDispatchMode

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
from lightning_adastate.streaming.buffers import StreamBuffers
from lightning_adastate.streaming.cuda_graphs import PassGraphs, Recording
from lightning_adastate.streaming.events import kv_flush, prompt_switch
from lightning_adastate.streaming.streamer import Streamer

ANCHORS = {
    "static": StaticAnchor(1),
    "EMA": EMAAnchor(1),
    "triangular": TriangularAnchor(3, bank_frames=6),
    "adaptive": AdaptiveAnchor(1),
    "selected": SelectedAnchor(1, num_selected=1),
    "compressed": CompressedAnchor(1, num_packed=2, bank_frames=4, stride=(2, 2)),
}
SCHEDULES = {
    "few": FewStepSchedule(3),
    "diagonal": DiagonalSchedule(3),
    "rolling": RollingSchedule(1, steps=(1000, 500)),
}
SYNCS = {
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.item",
    "aten.unique2",
    "aten.masked_select",
}


class Watch(TorchDispatchMode):
    """Note every operation, and the operations that would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        shape = tuple(out.shape) if isinstance(out, torch.Tensor) else None
        self.calls.append((func.name().removesuffix(".default").replace("::", "."), shape))
        return out


def model(anchor, schedule="few"):
    return Streamer(
        golden_backbone(),
        anchor=ANCHORS[anchor],
        cache=RelativisticCache(window_frames=6),
        schedule=SCHEDULES[schedule],
    )


def watched(streamer, chunks, warm=6):
    """Operations of each chunk after the window is full."""
    state = streamer.start(text(), latent_shape=LATENT)
    buffers, seen = StreamBuffers(), []
    with torch.no_grad():
        for index in range(warm + chunks):
            with Watch() as watch:
                state = streamer.step(state, buffers=buffers).state
            if index >= warm:
                seen.append(watch.calls)
    return seen


@pytest.mark.parametrize("anchor", ANCHORS)
def test_no_operation_waits_for_the_device(anchor):
    for calls in watched(model(anchor), 3):
        assert not SYNCS & {name for name, _ in calls}


@pytest.mark.parametrize("schedule", ["diagonal", "rolling"])
def test_no_schedule_makes_one_wait(schedule):
    for calls in watched(model("static", schedule), 3):
        assert not SYNCS & {name for name, _ in calls}


@pytest.mark.parametrize("anchor", ["static", "adaptive", "EMA", "compressed"])
def test_every_chunk_of_a_full_window_does_the_same_operations_on_the_same_shapes(anchor):
    first, *rest = watched(model(anchor), 3)
    assert all(calls == first for calls in rest)


def test_the_window_is_rotated_once_per_chunk_and_no_pass_joins_it():
    """The context has 24 tokens, 42 with the live ones; a join would have one of both."""
    (calls,) = watched(model("static"), 1)
    context, whole = 4 * 6, 7 * 6
    cats = [shape for name, shape in calls if name == "aten.cat" and shape]
    joined = [shape for shape in cats if context in shape or whole in shape]
    assert joined == []


def test_constants_are_made_once_per_stream():
    streamer = model("static")
    embeds = []
    original = streamer.backbone.embed_time
    streamer.backbone.embed_time = lambda timestep: embeds.append(1) or original(timestep)
    list(streamer.stream(streamer.start(text(), latent_shape=LATENT), 8))
    assert len(embeds) == 5  # four denoise passes and the clean one


def test_a_stream_with_scratch_equals_one_without():
    streamer = model("adaptive")
    state = streamer.start(text(2), latent_shape=LATENT)
    with torch.no_grad():
        plain = state
        for chunk in streamer.stream(state, 6):
            step = streamer.step(plain)
            plain = step.state
            torch.testing.assert_close(step.latents_BFCHW, chunk.latents_BFCHW, rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("anchor", ["static", "adaptive"])
def test_a_compiled_stream_equals_the_plain_one_without_graph_breaks_or_recompiling(anchor):
    streamer = model(anchor)
    state = streamer.start(text(), latent_shape=LATENT)
    plain = list(streamer.stream(state, 9))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    wan_block.compiled_block.cache_clear()
    streamer.backbone.compile_blocks = "steady"
    compiled = list(streamer.stream(state, 9))
    assert not wan_block.compiled_block().failed
    for a, b in zip(plain, compiled, strict=True):
        torch.testing.assert_close(a.latents_BFCHW, b.latents_BFCHW, rtol=0, atol=1e-5)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


def test_where_compiling_fails_blocks_run_plain_with_one_warning(monkeypatch, caplog):
    streamer = model("static")
    state = streamer.start(text(), latent_shape=LATENT)
    plain = list(streamer.stream(state, 6))
    wan_block.compiled_block.cache_clear()

    def broken(*args):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(wan_block.compiled_block(), "compiled", broken)
    streamer.backbone.compile_blocks = "steady"
    with caplog.at_level(logging.WARNING):
        compiled = list(streamer.stream(state, 6))
    wan_block.compiled_block.cache_clear()
    assert torch.equal(plain[-1].latents_BFCHW, compiled[-1].latents_BFCHW)
    assert caplog.text.count("no compiler here") == 1


def test_what_is_wrong_with_the_input_is_not_blamed_on_the_compiler(monkeypatch):
    streamer = model("static")
    *_, chunk = streamer.stream(streamer.start(text(), latent_shape=LATENT), 5)
    wan_block.compiled_block.cache_clear()

    def broken(*args):
        raise RuntimeError("as the plain block would")

    monkeypatch.setattr(wan_block.compiled_block(), "compiled", broken)
    monkeypatch.setattr(wan_block.WanBlock, "forward", broken)
    streamer.backbone.compile_blocks = "steady"
    buffers = StreamBuffers()
    with torch.no_grad(), pytest.raises(RuntimeError, match="as the plain block would"):
        streamer.step(replace(chunk.state), buffers=buffers)
    assert not wan_block.compiled_block().failed
    wan_block.compiled_block.cache_clear()


class Tape:
    """Records a pass as a CUDA graph does: a replay writes into the memory of the recording."""

    def __init__(self, reason=None):
        self.reason, self.recorded, self.replayed = reason, 0, 0

    def missing(self, sample):
        return self.reason

    def record(self, call):
        self.recorded += 1
        output = call()
        output.velocity_BFCHW.fill_(float("nan"))  # recording computes nothing

        def replay():
            self.replayed += 1
            again = call()
            output.velocity_BFCHW.copy_(again.velocity_BFCHW)
            if output.kv is not None:
                output.kv.key_LBFTND.copy_(again.kv.key_LBFTND)
                output.kv.value_LBFTND.copy_(again.kv.value_LBFTND)
            if output.query_LBFTND is not None:
                output.query_LBFTND.copy_(again.query_LBFTND)

        return Recording(replay, output)


def recorded(streamer, state, chunks, tape):
    """Latents of a stream whose passes are recorded."""
    buffers, found = StreamBuffers(PassGraphs(tape)), []
    streamer.backbone.cuda_graphs = "steady"
    with torch.no_grad():
        for _ in range(chunks):
            chunk = streamer.step(state, buffers=buffers)
            found.append(chunk.latents_BFCHW)
            state = chunk.state
    return found


@pytest.mark.parametrize("anchor", ANCHORS)
def test_recorded_passes_give_the_same_stream(anchor):
    streamer, tape = model(anchor), Tape()
    state = streamer.start(text(2), latent_shape=LATENT)
    expected = [chunk.latents_BFCHW for chunk in streamer.stream(state, 12)]
    found = recorded(streamer, state, 12, tape)
    assert tape.replayed >= 15
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_every_kind_of_pass_is_recorded_once():
    streamer, tape = model("static"), Tape()
    recorded(streamer, streamer.start(text(), latent_shape=LATENT), 14, tape)
    assert tape.recorded == 5
    assert tape.replayed % 5 == 0


def test_another_prompt_is_copied_to_where_recordings_read_it_and_a_flush_runs_plain():
    streamer, tape = model("static"), Tape()
    timeline = (prompt_switch(9, prompt=1), kv_flush(13, keep_frames=1))
    start = {"later_texts": [text(1, 8)], "timeline": timeline}
    state = streamer.start(text(), latent_shape=LATENT, **start)
    expected = [chunk.latents_BFCHW for chunk in streamer.stream(state, 20)]
    found = recorded(streamer, state, 20, tape)
    assert tape.recorded == 10  # five kinds of pass, and again after the flush
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_streams_of_two_prompts_may_share_their_memory():
    """The state is not written: a branch that goes on with its own prompt finds its own text."""
    streamer, buffers = model("static"), StreamBuffers(PassGraphs(Tape()))
    states = [streamer.start(text(1, seed), latent_shape=LATENT) for seed in (5, 8)]
    expected = [list(streamer.stream(state, 8)) for state in states]
    streamer.backbone.cuda_graphs = "steady"
    with torch.no_grad():
        for index in range(8):
            for row, state in enumerate(states):
                chunk = streamer.step(state, buffers=buffers)
                states[row] = chunk.state
                assert torch.equal(chunk.latents_BFCHW, expected[row][index].latents_BFCHW)


def test_what_a_chunk_keeps_is_not_overwritten_by_the_next():
    streamer, tape = model("static"), Tape()
    buffers, state = StreamBuffers(PassGraphs(tape)), streamer.start(text(), latent_shape=LATENT)
    streamer.backbone.cuda_graphs = "steady"
    kept = []
    with torch.no_grad():
        for _ in range(10):
            state = streamer.step(state, buffers=buffers).state
            kept.append((state.blocks[-1], state.blocks[-1].key_LBFTND.clone()))
    assert all(torch.equal(block.key_LBFTND, before) for block, before in kept)


@pytest.mark.parametrize("reason", ["the stream is on cpu", None])
def test_where_recording_fails_passes_run_plain_with_one_warning(monkeypatch, caplog, reason):
    streamer, tape = model("static"), Tape(reason)

    def broken(call):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(tape, "record", broken)
    state = streamer.start(text(), latent_shape=LATENT)
    expected = [chunk.latents_BFCHW for chunk in streamer.stream(state, 8)]
    with caplog.at_level(logging.WARNING):
        found = recorded(streamer, state, 8, tape)
    assert torch.equal(found[-1], expected[-1])
    assert caplog.text.count("they run plain") == 1


def test_a_recording_that_fails_once_is_tried_again(monkeypatch, caplog):
    """Another thread may have waited for the device just then."""
    streamer, tape = model("static"), Tape()
    record, failures = tape.record, ["operation failed due to a previous error during capture"]

    def fails_once(call):
        if failures:
            raise RuntimeError(failures.pop())
        return record(call)

    monkeypatch.setattr(tape, "record", fails_once)
    state = streamer.start(text(), latent_shape=LATENT)
    expected = [chunk.latents_BFCHW for chunk in streamer.stream(state, 9)]
    with caplog.at_level(logging.WARNING):
        found = recorded(streamer, state, 9, tape)
    assert torch.equal(found[-1], expected[-1])
    assert tape.recorded == 5
    assert tape.replayed >= 10
    assert not caplog.text


def test_without_cuda_a_stream_says_so_once_and_goes_on(caplog):
    streamer = model("static")
    state = streamer.start(text(), latent_shape=LATENT)
    expected = [chunk.latents_BFCHW for chunk in streamer.stream(state, 8)]
    streamer.backbone.cuda_graphs = "steady"
    with caplog.at_level(logging.WARNING):
        found = [chunk.latents_BFCHW for chunk in streamer.stream(state, 8)]
    assert torch.equal(found[-1], expected[-1])
    assert caplog.text.count("the stream is on cpu") == 1
