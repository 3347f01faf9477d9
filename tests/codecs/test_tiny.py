"""The tiny codec, with random weights under the names and in the shapes of the real file.

The real weights are not here: that they are read right is checked against a loop that is written from the
description of the network, not against their pictures.
"""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch.nn.functional import conv2d, interpolate
from torch.utils.flop_counter import FlopCounterMode

from lightning_adastate.codecs import TinyCodec, tiny_layers
from lightning_adastate.codecs.tiny import WAN_MEAN, WAN_STD
from lightning_adastate.streaming.state_file import (
    load_stream_state,
    save_stream_state,
    save_tensors,
)
from lightning_adastate.types import StreamState

SMALL = (12, 8, 6, 4)
REAL = (256, 128, 64, 64)
ROUNDING = 1e-5  # of pixels in [0, 1], through some 40 convolutions in float32


def shapes(widths, encoder_width=None):
    """Every tensor of a file: the names and, with ``REAL`` and 64, the shapes of taew2_1."""
    found = {}

    def conv(name, outputs, inputs, side=3, bias=True):
        found[f"{name}.weight"] = (outputs, inputs, side, side)
        if bias:
            found[f"{name}.bias"] = (outputs,)

    def recall(name, width):
        conv(f"{name}.conv.0", width, 2 * width)
        conv(f"{name}.conv.2", width, width)
        conv(f"{name}.conv.4", width, width)

    conv("decoder.1", widths[0], 16)
    for level, times in enumerate((1, 2, 2)):
        start = 3 + 6 * level
        for number in range(start, start + 3):
            recall(f"decoder.{number}", widths[level])
        conv(f"decoder.{start + 4}.conv", times * widths[level], widths[level], 1, bias=False)
        conv(f"decoder.{start + 5}", widths[level + 1], widths[level], bias=False)
    conv("decoder.22", 3, widths[3])
    if encoder_width is not None:
        width = encoder_width
        conv("encoder.0", width, 3)
        for level, times in enumerate((2, 2, 1)):
            start = 2 + 5 * level
            conv(f"encoder.{start}.conv", width, times * width, 1, bias=False)
            conv(f"encoder.{start + 1}", width, width, bias=False)
            for number in range(start + 2, start + 5):
                recall(f"encoder.{number}", width)
        conv("encoder.17", 16, width)
    return found


def random_weights(widths=SMALL, encoder_width=5):
    """Weights that keep a signal alive through all layers, with biases about grey."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes(widths, encoder_width).items():
        spread = 1.2 / torch.Size(shape[1:]).numel() ** 0.5 if len(shape) > 1 else 0.1
        weights[name] = spread * torch.randn(shape, generator=generator)
    weights["decoder.22.weight"] *= 0.2
    weights["decoder.22.bias"] += 0.5
    return weights


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "taew2_1.safetensors"
    save_tensors(path, random_weights())
    return str(path)


@pytest.fixture(scope="module")
def latents():
    return torch.randn(2, 7, 16, 3, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def video():
    return torch.rand(2, 13, 3, 24, 40, generator=torch.Generator().manual_seed(2))


# -- the network, one stream and one frame at a time, in float64 ----------------------------------------


def recalled(weights, name, frames):
    """Each frame with the one before it, zeros before the first."""
    made = []
    for number, frame in enumerate(frames):
        before = frames[number - 1] if number else torch.zeros_like(frame)
        x = torch.cat([frame, before])
        for part in (0, 2, 4):
            weight, bias = (weights[f"{name}.conv.{part}.{kind}"] for kind in ("weight", "bias"))
            x = conv2d(x[None], weight, bias, padding=1)[0]
            x = x.relu() if part != 4 else x
        made.append((x + frame).relu())
    return made


def decoded_slowly(weights, latents_FCHW):
    """Enlarge before mixing channels, as the public network is described."""
    frames = [3 * torch.tanh(latent / 3) for latent in latents_FCHW]
    first = weights["decoder.1.weight"], weights["decoder.1.bias"]
    frames = [conv2d(frame[None], *first, padding=1)[0].relu() for frame in frames]
    for start, times in ((3, 1), (9, 2), (15, 2)):
        for number in range(start, start + 3):
            frames = recalled(weights, f"decoder.{number}", frames)
        grown = []
        for frame in frames:
            large = interpolate(frame[None], scale_factor=2, mode="nearest")
            mixed = conv2d(large, weights[f"decoder.{start + 4}.conv.weight"])[0]
            grown += mixed.chunk(times)
        narrow = weights[f"decoder.{start + 5}.weight"]
        frames = [conv2d(frame[None], narrow, padding=1)[0] for frame in grown]
    last = weights["decoder.22.weight"], weights["decoder.22.bias"]
    frames = [conv2d(frame.relu()[None], *last, padding=1)[0] for frame in frames]
    return torch.stack(frames[3:]).clamp(0, 1)


def encoded_slowly(weights, video_FCHW):
    frames = [*video_FCHW, *([video_FCHW[-1]] * 3)]
    first = weights["encoder.0.weight"], weights["encoder.0.bias"]
    frames = [conv2d(frame[None], *first, padding=1)[0].relu() for frame in frames]
    for start, times in ((2, 2), (7, 2), (12, 1)):
        pairs = [torch.cat(frames[i : i + times]) for i in range(0, len(frames), times)]
        mixed = [conv2d(x[None], weights[f"encoder.{start}.conv.weight"]) for x in pairs]
        halving = weights[f"encoder.{start + 1}.weight"]
        frames = [conv2d(x, halving, stride=2, padding=1)[0] for x in mixed]
        for number in range(start + 2, start + 5):
            frames = recalled(weights, f"encoder.{number}", frames)
    last = weights["encoder.17.weight"], weights["encoder.17.bias"]
    return torch.stack([conv2d(frame[None], *last, padding=1)[0] for frame in frames])


def test_it_decodes_what_the_network_described_does(file, latents):
    weights = {name: tensor.double() for name, tensor in random_weights().items()}
    expected = torch.stack([decoded_slowly(weights, stream) for stream in latents.double()])
    video, _ = TinyCodec(file).decode(latents, {})
    assert video.shape == (2, 25, 3, 24, 40)
    assert float(expected.std()) > 0.05
    assert ((expected > 0) & (expected < 1)).double().mean() > 0.5, "clamping must not hide errors"
    torch.testing.assert_close(video, expected.float(), rtol=0, atol=ROUNDING)


def test_it_encodes_what_the_network_described_does(file, video):
    weights = {name: tensor.double() for name, tensor in random_weights().items()}
    expected = torch.stack([encoded_slowly(weights, stream) for stream in video.double()])
    latents = TinyCodec(file, frames_per_pass=2).encode(video)
    assert latents.shape == (2, 4, 16, 3, 5)
    torch.testing.assert_close(latents, expected.float(), rtol=0, atol=1e-5)


# -- streaming ---------------------------------------------------------------------------------------


def in_chunks(codec, latents, sizes):
    state, parts = codec.empty(), []
    for chunk in latents.split(sizes, dim=1):
        pixels, state = codec.decode(chunk, state)
        parts.append(pixels)
    return parts, state


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_chunks_are_decoded_as_the_whole_is(file, latents, size):
    whole, after = TinyCodec(file, frames_per_pass=7).decode(latents, {})
    parts, state = in_chunks(TinyCodec(file), latents, size)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=ROUNDING)
    assert list(state) == ["3", "4", "5", "9", "10", "11", "15", "16", "17"]
    for name, kept in after.items():
        torch.testing.assert_close(state[name], kept, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_frame_by_frame_they_are_so_to_the_last_bit(file, latents, size):
    codec = TinyCodec(file, frames_per_pass=1)
    whole, _ = codec.decode(latents, {})
    parts, _ = in_chunks(codec, latents, size)
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_one_latent_is_one_picture_and_each_later_one_is_four(file, latents):
    parts, _ = in_chunks(TinyCodec(file), latents, [1, 3, 1, 2])
    assert [part.shape[1] for part in parts] == [1, 12, 4, 8]


def test_a_saved_memory_goes_on_exactly_and_can_be_branched(file, latents, tmp_path):
    codec = TinyCodec(file)
    _, memory = codec.decode(latents[:, :3], {})
    before = {name: tensor.clone() for name, tensor in memory.items()}
    blank = StreamState(1, 3, (16, 3, 5), (), {}, torch.zeros(1, 2, 1, 1), 0, 0, (0, 1))
    state = StreamState(**{**vars(blank), "codec": memory})
    save_stream_state(tmp_path / "s.safetensors", state)
    loaded = load_stream_state(tmp_path / "s.safetensors").codec
    branches = [codec.decode(latents[:, 3:6], kept)[0] for kept in (memory, memory, loaded)]
    assert torch.equal(branches[0], branches[1])
    assert torch.equal(branches[0], branches[2])
    assert all(torch.equal(memory[name], tensor) for name, tensor in before.items())


def test_streams_do_not_see_each_other(file, latents):
    codec = TinyCodec(file)
    together, _ = codec.decode(latents, {})
    alone, _ = codec.decode(latents[1:], {})
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=ROUNDING)


# -- files and options -------------------------------------------------------------------------------


def test_the_real_file_has_the_real_sizes():
    """128 tensors; 9.8 million numbers in the decoder, as the builder and the list above say alike."""
    with torch.device("meta"):
        halves = {
            "decoder": tiny_layers.decoder(16, REAL, 3),
            "encoder": tiny_layers.encoder(16, 64, 3),
        }
    built = torch.nn.ModuleDict(halves).state_dict()
    expected = shapes(REAL, 64)
    assert {name: tuple(tensor.shape) for name, tensor in built.items()} == expected
    assert len(expected) == 128
    count = sum(torch.Size(s).numel() for n, s in expected.items() if n.startswith("decoder"))
    assert count == 9_844_611


def test_its_work_is_what_was_predicted():
    """12 frames at 480 x 832 as the files' order has it are 1.63e12; `Grow` mixes before it enlarges."""
    with torch.device("meta"):
        half = tiny_layers.decoder(16, REAL, 3)
        chunk = torch.empty(1, 3, 16, 60, 104)
        _, memory = tiny_layers.run(half, chunk, {})
        with FlopCounterMode(display=False) as counter:
            made, _ = tiny_layers.run(half, chunk, memory)
    assert made.shape == (1, 12, 3, 480, 832)
    assert counter.get_total_flops() == pytest.approx(1.58e12, rel=0.01)


def test_pickled_files_in_half_precision_are_read_too(file, latents, tmp_path):
    half = {name: tensor.half() for name, tensor in random_weights().items()}
    torch.save(half, tmp_path / "taew2_1.pth")
    codec = TinyCodec(str(tmp_path / "taew2_1.pth"))
    expected, _ = TinyCodec(file).decode(latents, {})
    torch.testing.assert_close(codec.decode(latents, {})[0], expected, rtol=0, atol=5e-3)
    rough, memory = TinyCodec(file, dtype="bfloat16").decode(latents, {})
    torch.testing.assert_close(rough, expected, rtol=0, atol=1e-1)
    assert rough.dtype == torch.float32
    assert {kept.dtype for kept in memory.values()} == {torch.bfloat16}


def test_raw_latents_are_those_of_wans_vae(file, latents):
    config = AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1).config
    assert tuple(config["latents_mean"]) == WAN_MEAN
    assert tuple(config["latents_std"]) == WAN_STD
    mean, std = (torch.tensor(values).view(16, 1, 1) for values in (WAN_MEAN, WAN_STD))
    expected, _ = TinyCodec(file).decode(latents * std + mean, {})
    found, _ = TinyCodec(file, latents="raw").decode(latents, {})
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


def test_a_level_that_could_double_frames_keeps_the_last(latents, tmp_path):
    weights = random_weights()
    wide = dict(weights)
    wide["decoder.7.conv.weight"] = torch.cat(
        [torch.randn(12, 12, 1, 1), weights["decoder.7.conv.weight"]]
    )
    for name, tensors in (("narrow", weights), ("wide", wide)):
        save_tensors(tmp_path / f"{name}.safetensors", tensors)
    found, expected = (
        TinyCodec(str(tmp_path / f"{name}.safetensors")).decode(latents, {})[0]
        for name in ("wide", "narrow")
    )
    assert torch.equal(found, expected)


def test_a_file_of_the_decoder_alone_only_decodes(latents, video, tmp_path):
    save_tensors(tmp_path / "d.safetensors", random_weights(encoder_width=None))
    codec = TinyCodec(str(tmp_path / "d.safetensors"))
    assert codec.decode(latents, {})[0].shape == (2, 25, 3, 24, 40)
    with pytest.raises(ValueError, match="has no encoder, so it decodes only"):
        codec.encode(video)


def changed(**changes):
    weights = random_weights()
    for name, tensor in changes.items():
        weights[name.replace("__", ".")] = tensor
    return weights


BROKEN = {
    "another format": ({"patch_embedding.weight": torch.zeros(2)}, "lacks 'decoder.1.weight'"),
    "Wan2.2's": (
        changed(decoder__22__weight=torch.zeros(12, 4, 3, 3)),
        "gives 12 values per pixel",
    ),
    "extra": (changed(decoder__30__weight=torch.zeros(2)), r"1 unexpected \(decoder.30.weight"),
    "misshapen": (
        changed(decoder__4__conv__2__bias=torch.zeros(7)),
        r"1 misshapen \(decoder.4.conv.2.bias is \(7,\), expected \(12,\)",
    ),
    "short": (
        {n: t for n, t in random_weights().items() if n != "decoder.9.conv.0.bias"},
        r"1 missing \(decoder.9.conv.0.bias",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_does_not_fit_is_named_with_what_is_wrong(name, tmp_path):
    weights, reason = BROKEN[name]
    save_tensors(tmp_path / "w.safetensors", weights)
    with pytest.raises(ValueError, match=reason) as caught:
        TinyCodec(str(tmp_path / "w.safetensors"))
    assert "w.safetensors" in str(caught.value)


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save({"decoder.1.weight": pytest.approx(1.0)}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot read weights"):
        TinyCodec(str(tmp_path / "evil.pth"))


def test_mistakes_are_one_sentence(file, latents, video):
    codec = TinyCodec(file)
    other = {"conv_in": torch.zeros(1)}
    mistakes = {
        r"`frames_per_pass` must be 1 or more, got 0": lambda: TinyCodec(file, frames_per_pass=0),
        r"expected latents \[B, F, 16, H, W\]": lambda: codec.decode(latents[:, :, :4], {}),
        "not of this decoder": lambda: codec.decode(latents, other),
        r"expected video \[B, F, 3, H, W\]": lambda: codec.encode(video[:, :, :1]),
        r"must be 1 \+ 4 n, got 12": lambda: codec.encode(video[:, :12]),
        "must be multiples of 8": lambda: codec.encode(video[..., :20]),
        "must come whole": lambda: codec.encode_next(video[:, :4], other),
        "trained on raw latents": lambda: TinyCodec(file, latents="raw").encode(video),
        "no weights file": lambda: TinyCodec("nothing.pth"),
    }
    for reason, mistake in mistakes.items():
        with pytest.raises(ValueError, match=reason):
            mistake()
