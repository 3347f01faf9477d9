"""Denoising ahead of the reader: the same stream to the last bit, and a thread that ends."""

import threading
import time
from dataclasses import fields, is_dataclass
from itertools import islice

import pytest
import torch
from torch import Tensor
from training_toy import backbone, parts

from lightning_adastate.anchors import AdaptiveAnchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.noise import CounterNoise
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming import cuda_graphs
from lightning_adastate.streaming.cuda_graphs import Recording
from lightning_adastate.streaming.events import kv_flush, prompt_switch, restart
from lightning_adastate.streaming.overlapped import stream_overlapped
from lightning_adastate.training.base import StreamModule

PATIENCE = 20.0  # seconds until a test gives up waiting for the thread


class Echo(PixelShuffleCodec):
    """A decoder with a memory: every picture has an echo of all frames before."""

    def decode(self, latents_BFCHW, state):
        echo, frames = state.get("echo", torch.zeros(())), []
        for frame in latents_BFCHW.split(1, dim=1):
            frames.append(frame + 0.5 * echo)
            echo = frame + 0.7 * echo
        return super().decode(torch.cat(frames, dim=1), {})[0], {"echo": echo}


class Watched(CounterNoise):
    """Noise that tells which chunks were begun, and in which threads."""

    def __init__(self):
        super().__init__()
        self.begun, self.threads = set(), set()

    def draw(self, key, **options):
        self.begun.add(key.chunk)
        self.threads.add(threading.current_thread().name.partition("_")[0])
        return super().draw(key, **options)


class Failing(StaticAnchor):
    def commit(self, contents, committed):
        if committed.content.frame_indices[0] == 2:
            raise ValueError("the third chunk fails")
        return contents


def module(**options):
    return StreamModule(backbone(), **parts(codec=Echo(2), **options)).eval()


def opened(model, rows=2, **options):
    return model.open_stream(["drifting west", "drifting east"][:rows], seed=3, **options)


def tensors(value, name=""):
    """Every tensor inside a value, by where it is."""
    if isinstance(value, Tensor):
        yield name, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, f"{name}[{key}]")
    elif isinstance(value, tuple):
        for number, part in enumerate(value):
            yield from tensors(part, f"{name}[{number}]")


def same(pieces, expected):
    assert len(pieces) == len(expected)
    for piece, other in zip(pieces, expected, strict=True):
        found, wanted = dict(tensors(piece)), dict(tensors(other))
        # Only the state that is yielded is complete; `chunk.state` is the one before decoding.
        found, wanted = (
            {name: t for name, t in each.items() if not name.startswith(".chunk.state.codec")}
            for each in (found, wanted)
        )
        assert found.keys() == wanted.keys()
        assert [name for name in found if not torch.equal(found[name], wanted[name])] == []


def nobody_works():
    return not any(thread.name.startswith("denoise") for thread in threading.enumerate())


STREAMS = {
    "adastate": ({}, {}),
    "chunks of three": (
        {"schedule": FewStepSchedule(3, steps=(1000, 500), shift=1.0), "anchor": StaticAnchor(1)}
        | {"cache": RelativisticCache(window_frames=6)},
        {},
    ),
    "a timeline": (
        {"anchor": StaticAnchor(1), "cache": RelativisticCache(window_frames=3)},
        {
            "timeline": (prompt_switch(2, 1, frames=2), kv_flush(4, keep_frames=1)),
            "later_prompts": [["turning", "resting"]],
        },
    ),
    "pictures encoded anew": (
        {"schedule": FewStepSchedule(3, steps=(1000, 500), shift=1.0), "anchor": StaticAnchor(0)}
        | {"cache": SlidingCache(window_frames=6)},
        {"timeline": (restart(1, overlap_frames=2),)},
    ),
    "pictures encoded anew, once": (
        {"schedule": FewStepSchedule(3, steps=(1000, 500), shift=1.0), "anchor": StaticAnchor(0)}
        | {"cache": SlidingCache(window_frames=6)},
        {"timeline": (restart(3, overlap_frames=2),)},
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_it_yields_the_stream_in_turn_to_the_last_bit(name):
    components, options = STREAMS[name]
    model = module(**components)
    state = opened(model, **options)
    expected = list(model.stream(state, 6))
    same(list(stream_overlapped(model, state, 6)), expected)
    assert nobody_works()


def test_every_state_goes_on_as_if_nothing_had_been_ahead():
    model = module()
    pieces = list(stream_overlapped(model, opened(model), 5))
    for number, piece in enumerate(pieces[:-1]):
        rest = list(stream_overlapped(model, piece.state, 4 - number))
        same(rest, pieces[number + 1 :])
        same(list(model.stream(piece.state, 1)), rest[:1])


def test_the_next_chunk_is_made_while_the_reader_holds_one_and_no_other():
    noise = Watched()
    model = module(noise=noise)
    stream = stream_overlapped(model, opened(model))
    for chunk in range(3):
        piece = next(stream)
        assert piece.chunk.index == chunk
        late = time.monotonic() + PATIENCE
        while chunk + 1 not in noise.begun and time.monotonic() < late:
            time.sleep(0.01)
        time.sleep(0.2)
        assert max(noise.begun) == chunk + 1
    assert noise.threads == {"denoise"}
    stream.close()
    assert nobody_works()
    assert max(noise.begun) == 3


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_no_chunk_is_made_that_was_not_asked_for(asked):
    noise = Watched()
    model = module(noise=noise)
    assert len(list(stream_overlapped(model, opened(model), asked))) == asked
    assert noise.begun == set(range(asked))


def test_an_error_comes_where_it_would_have_come_and_ends_the_thread():
    model = module(anchor=Failing(0))
    stream = stream_overlapped(model, opened(model), 9)
    expected = list(islice(model.stream(opened(model)), 2))
    same([next(stream), next(stream)], expected)
    with pytest.raises(ValueError, match="the third chunk fails"):
        next(stream)
    assert nobody_works()
    assert next(stream, None) is None


def test_an_error_of_the_decoder_is_the_first_one():
    class Broken(Echo):
        def decode(self, latents_BFCHW, state):
            if "echo" in state:
                raise ValueError("the second chunk cannot be shown")
            return super().decode(latents_BFCHW, state)

    model = StreamModule(backbone(), **parts(codec=Broken(2), anchor=Failing(0))).eval()
    stream = stream_overlapped(model, opened(model), 9)
    next(stream)
    with pytest.raises(ValueError, match="the second chunk cannot be shown"):
        next(stream)
    assert nobody_works()


def test_the_thread_is_under_the_readers_modes():
    model = module(anchor=AdaptiveAnchor(1))
    state = opened(model)
    wide = list(model.stream(state, 3))
    with torch.autocast("cpu", torch.bfloat16):
        expected = list(model.stream(state, 3))
        same(list(stream_overlapped(model, state, 3)), expected)
    assert not torch.equal(expected[-1].chunk.latents_BFCHW, wide[-1].chunk.latents_BFCHW)
    with torch.inference_mode():
        found = list(stream_overlapped(model, state, 3))
        assert found[-1].chunk.latents_BFCHW.is_inference()
        same(found, wide)
    found = list(stream_overlapped(model, state, 1))
    assert not found[0].chunk.latents_BFCHW.requires_grad


def test_the_thread_does_not_hold_on_to_the_decoders_memory(monkeypatch):
    model, held = module(), []
    begun = next(iter(model.stream(opened(model), 1))).state
    assert begun.codec
    step = model.streamer.step

    def watched(state, **options):
        held.append(len(state.codec))
        return step(state, **options)

    monkeypatch.setattr(model.streamer, "step", watched)
    list(stream_overlapped(model, begun, 3))
    assert held == [0, 0, 0]


class Slow:
    """Records a pass as slowly as a GPU does, and notes when."""

    def __init__(self):
        self.at_work, self.recorded = False, 0

    def missing(self, sample):
        return None

    def record(self, call):
        self.at_work, output = True, call()
        time.sleep(0.02)
        self.at_work = False
        self.recorded += 1

        def replay():
            again = call()
            output.velocity_BFCHW.copy_(again.velocity_BFCHW)
            if output.kv is not None:
                output.kv.key_LBFTND.copy_(again.kv.key_LBFTND)
                output.kv.value_LBFTND.copy_(again.kv.value_LBFTND)

        return Recording(replay, output)


def test_nothing_is_decoded_while_a_pass_is_recorded(monkeypatch):
    """A decoder compiles, allocates and waits for the device: in another thread, that breaks a recording."""
    recorder, met = Slow(), []

    class Decoder(Echo):
        def decode(self, latents_BFCHW, state):
            for _ in range(20):
                met.append(recorder.at_work)
                time.sleep(0.002)
            return super().decode(latents_BFCHW, state)

    monkeypatch.setattr(cuda_graphs, "CudaRecorder", lambda: recorder)
    model = StreamModule(backbone(), **parts(codec=Decoder(2))).eval()
    model.streamer.backbone.cuda_graphs = "steady"
    list(stream_overlapped(model, opened(model, 1), 8))
    assert recorder.recorded
    assert met
    assert not any(met)
