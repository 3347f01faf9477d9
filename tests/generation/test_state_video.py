"""The hidden state as a video beside the content: what it shows, and that it stops and goes on as the video does."""

import functools
from pathlib import Path

import pytest
import torch

from lightning_adastate import load_module
from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.generation.generate import Generation, generate
from lightning_adastate.media import read_video
from lightning_adastate.media.state_view import state_beside
from lightning_adastate.media.video import to_uint8
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import Chunk

HEIGHT, WIDTH = 8, 16


class StoppedError(Exception):
    """What a test stops a stream with."""


class FailingCodec(PixelShuffleCodec):
    """A codec that fails at its n-th chunk of content (three frames; a state has one)."""

    fails_in = None

    def decode(self, latents_BFCHW, state):
        if latents_BFCHW.shape[1] == 3 and self.fails_in is not None:
            self.fails_in -= 1
            if not self.fails_in:
                raise StoppedError
        return super().decode(latents_BFCHW, state)


@functools.cache
def module():
    made = load_module("toy/adastate", weights="toy/generator.safetensors")
    made.codec = FailingCodec(2)
    return made


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(name, prompts="drifting west", **options):
    asked = {"num_chunks": 6, "quality": "lossless", "output": None, "state_every": 1, **options}
    return generate(module(), Generation(prompts, state_video=name, **asked))


def test_content_stands_left_and_the_decoded_state_right():
    assert run("s.mp4", output="v.mp4") == 0
    shown, content = read_video("s.mp4"), read_video("v.mp4")
    assert shown.shape == (18, 3, HEIGHT, WIDTH + 1 + WIDTH)
    assert torch.equal(shown[..., :WIDTH], content)
    assert (shown[..., WIDTH] == 255).all()
    states = shown[..., WIDTH + 1 :]
    chunks = list(module().streamer.stream(module().open_stream(["drifting west"]), 6))
    for chunk in chunks:
        own = states[3 * chunk.index : 3 * chunk.index + 3]
        if chunk.state_latents_BFCHW is None:
            assert (own == 128).all(), "grey while there is no state"
            continue
        picture, _ = module().codec.decode(chunk.state_latents_BFCHW, {})
        expected = (picture[0].clamp(0, 1) * 255).round().byte().expand(3, -1, -1, -1)
        assert torch.equal(own, expected)
    hidden = [chunk.state_latents_BFCHW is not None for chunk in chunks]
    assert not hidden[0]
    assert hidden[-1]


def test_several_streams_have_their_own_and_a_stopped_one_goes_on():
    Path("p.txt").write_text("drifting west\ndrifting east\n")
    run("whole.mp4", prompts="p.txt")
    module().codec.fails_in = 4
    with pytest.raises(StoppedError):
        run("s.mp4", prompts="p.txt")
    module().codec.fails_in = None
    assert Path("s-00.mp4").exists()
    assert run("s.mp4", prompts="p.txt") == 0
    for row in ("00", "01"):
        assert torch.equal(read_video(f"s-{row}.mp4"), read_video(f"whole-{row}.mp4"))
    assert not torch.equal(read_video("s-00.mp4"), read_video("s-01.mp4"))
    with pytest.raises(ValueError, match=r"'s-00.mp4' is there already"):
        run("s.mp4", prompts="p.txt")


def test_several_state_frames_share_the_chunk():
    video, states = torch.rand(4, 3, 2, 40), torch.rand(2, 3, 2, 40)
    for content in (video, to_uint8(video)):  # bytes are what a card may hand over
        shown = state_beside(content, states)
        assert torch.equal(shown[..., :40], to_uint8(video))
        assert (shown[..., 40] == 255).all()
        assert torch.equal(shown[..., 41:], to_uint8(states)[[0, 0, 1, 1]])
        assert (state_beside(content, None)[..., 41:] == 128).all()


def test_pictures_of_a_state_are_per_stream_and_frame():
    hidden = torch.rand(2, 3, 12, 4, 8)
    chunk = Chunk(0, 0, torch.zeros(2, 3, 12, 4, 8), hidden, None)
    found = module().decode_state(chunk)
    for row in range(2):
        for frame in range(3):
            alone, _ = module().codec.decode(hidden[row : row + 1, frame : frame + 1], {})
            assert torch.equal(found[row, frame], alone[0, 0])


def test_an_anchor_without_a_state_is_told_so(monkeypatch):
    streamer = module().streamer
    static = Streamer(
        streamer.backbone, anchor=StaticAnchor(1), cache=streamer.cache, schedule=streamer.schedule
    )
    monkeypatch.setattr(type(module()), "streamer", property(lambda _: static))
    with pytest.raises(ValueError, match="hidden state, which StaticAnchor does not have"):
        run("s.mp4")
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"state_video": "s.avi"}, "`generation.state_video` must end in .mp4, got 's.avi'"),
        ({"state_video": "v.mp4", "output": "v.mp4"}, "must be different files"),
        ({"output": None}, "there is nothing to write"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        Generation("west", **names)
