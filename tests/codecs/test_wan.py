"""Wan's VAE, at a tiny size, with random weights in the real format."""

import re

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import nn
from torch._dynamo.testing import CompileCounter

from lightning_adastate.codecs import WanCodec, wan_fast
from lightning_adastate.codecs.wan_plain import slot_frames
from lightning_adastate.streaming.state_file import load_stream_state, save_stream_state
from lightning_adastate.types import StreamState

PATHS = pytest.mark.parametrize("path", ["plain", "fast"])
SIZES = pytest.mark.parametrize("size", [1, 2, 3, 5])
ROUNDING = 2e-5  # of values about 1, through some 20 convolutions in float32


def tiny_vae(**config):
    """A VAE with everything the real one has, with weights that no layer leaves unused."""
    torch.manual_seed(0)
    sizes = {"base_dim": 6, "dim_mult": [1, 2, 2, 3], "num_res_blocks": 1}
    vae = AutoencoderKLWan(**{**sizes, **config})
    for name, weight in vae.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(weight, 0.5, 1.5)
    return vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("wan")
    tiny_vae().save_pretrained(root / "vae")
    return str(root)


@pytest.fixture(scope="module")
def latents():
    return torch.randn(2, 7, 16, 3, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def video():
    return torch.rand(2, 25, 3, 24, 32, generator=torch.Generator().manual_seed(2))


def decode_in_chunks(codec, latents, size):
    state, parts = codec.empty(), []
    for chunk in latents.split(size, dim=1):
        pixels, state = codec.decode(chunk, state)
        parts.append(pixels)
    return torch.cat(parts, dim=1), state


def encode_in_chunks(codec, video, size):
    state, parts = codec.empty(), []
    for chunk in [video[:, :1], *video[:, 1:].split(4 * size, dim=1)]:
        made, state = codec.encode_next(chunk, state)
        parts.append(made)
    return torch.cat(parts, dim=1), state


def test_the_plain_path_decodes_what_diffusers_decodes(folder, latents):
    codec, config = WanCodec(folder, path="plain"), tiny_vae().config
    mean, std = (torch.tensor(config[f"latents_{name}"]) for name in ("mean", "std"))
    raw = latents * std.view(1, 1, 16, 1, 1) + mean.view(1, 1, 16, 1, 1)
    with torch.no_grad():
        expected = tiny_vae().eval().decode(raw.transpose(1, 2)).sample.transpose(1, 2)
    video, _ = codec.decode(latents, codec.empty())
    assert torch.equal(video, (expected + 1.0) / 2.0)
    assert video.shape == (2, 25, 3, 24, 32)
    assert video.std() > 0.02


def test_the_plain_path_encodes_what_diffusers_encodes(folder, video):
    codec, config = WanCodec(folder, path="plain"), tiny_vae().config
    mean, std = (torch.tensor(config[f"latents_{name}"]) for name in ("mean", "std"))
    with torch.no_grad():
        raw = tiny_vae().eval().encode(video.transpose(1, 2) * 2.0 - 1.0).latent_dist.mode()
    expected = (raw.transpose(1, 2) - mean.view(1, 1, 16, 1, 1)) / std.view(1, 1, 16, 1, 1)
    assert torch.equal(codec.encode(video), expected)


@SIZES
def test_decoding_in_chunks_equals_decoding_at_once_to_the_last_bit(folder, latents, size):
    codec = WanCodec(folder, path="plain")
    whole, after = codec.decode(latents, codec.empty())
    chunked, state = decode_in_chunks(codec, latents, size)
    assert torch.equal(chunked, whole)
    assert all(torch.equal(state[name], after[name]) for name in after)


@SIZES
def test_encoding_in_chunks_equals_encoding_at_once_to_the_last_bit(folder, video, size):
    codec = WanCodec(folder, path="plain")
    chunked, _ = encode_in_chunks(codec, video, size)
    assert torch.equal(chunked, codec.encode(video))


@PATHS
def test_one_latent_is_one_picture_and_each_later_one_is_four(folder, latents, path):
    codec, state, counts = WanCodec(folder, path=path), {}, []
    for chunk in latents.split([1, 3, 1, 2], dim=1):
        pixels, state = codec.decode(chunk, state)
        counts.append(pixels.shape[1])
    assert counts == [1, 12, 4, 8]
    assert codec.encode(torch.rand(1, 1, 3, 16, 24)).shape == (1, 1, 16, 2, 3)


@SIZES
def test_the_fast_path_decodes_what_the_plain_one_does(folder, latents, size):
    plain, fast = WanCodec(folder, path="plain"), WanCodec(folder, frames_per_pass=size)
    expected, memory = plain.decode(latents, {})
    whole, state = fast.decode(latents, {})
    torch.testing.assert_close(whole, expected, rtol=0, atol=ROUNDING)
    chunked, _ = decode_in_chunks(fast, latents, size)
    torch.testing.assert_close(chunked, expected, rtol=0, atol=ROUNDING)
    for name, kept in memory.items():
        torch.testing.assert_close(state[name], kept, rtol=1e-4, atol=1e-3 * float(kept.std()))


@SIZES
def test_the_fast_path_encodes_what_the_plain_one_does(folder, video, size):
    plain, fast = WanCodec(folder, path="plain"), WanCodec(folder, frames_per_pass=size)
    expected = plain.encode(video)
    torch.testing.assert_close(fast.encode(video), expected, rtol=0, atol=ROUNDING)
    chunked, _ = encode_in_chunks(fast, video, size)
    torch.testing.assert_close(chunked, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("begun", "continued"), [("plain", "fast"), ("fast", "plain")])
def test_a_stream_may_go_on_along_the_other_path(folder, latents, begun, continued):
    expected, _ = WanCodec(folder, path="plain").decode(latents, {})
    first, state = WanCodec(folder, path=begun).decode(latents[:, :3], {})
    rest, _ = WanCodec(folder, path=continued).decode(latents[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), expected, rtol=0, atol=ROUNDING)


@PATHS
def test_a_stream_saved_after_any_chunk_goes_on_as_if_it_had_not_been(
    folder, latents, path, tmp_path
):
    codec = WanCodec(folder, path=path)
    _, memory = codec.decode(latents[:, :3], {})
    text, shape = torch.zeros(1, 1, 1, 1), (16, 3, 4)
    state = StreamState(1, 3, shape, (), {}, text, 0, 0, (0, 1), codec=memory)
    save_stream_state(tmp_path / "s.safetensors", state)
    loaded = load_stream_state(tmp_path / "s.safetensors").codec
    assert torch.equal(
        codec.decode(latents[:, 3:], loaded)[0], codec.decode(latents[:, 3:], memory)[0]
    )


@PATHS
def test_the_memory_given_is_not_written(folder, latents, path):
    codec = WanCodec(folder, path=path)
    _, memory = codec.decode(latents[:, :2], {})
    before = {name: tensor.clone() for name, tensor in memory.items()}
    branches = [codec.decode(latents[:, 2:5], memory)[0] for _ in range(2)]
    assert torch.equal(*branches)
    assert memory.keys() == before.keys()
    assert all(torch.equal(memory[name], before[name]) for name in before)


@PATHS
def test_the_memory_does_not_grow(folder, latents, path):
    codec = WanCodec(folder, path=path)
    sizes = []
    for length in (1, 3, 7):
        _, memory = codec.decode(latents[:, :length], {})
        sizes.append({name: (t.shape, t.untyped_storage().nbytes()) for name, t in memory.items()})
    assert sizes[0] == sizes[1] == sizes[2]


@PATHS
def test_rows_of_a_batch_do_not_see_each_other(folder, latents, path):
    codec = WanCodec(folder, path=path)
    together, _ = codec.decode(latents, {})
    alone, _ = codec.decode(latents[1:], {})
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=ROUNDING)


def test_the_real_decoder_has_32_histories_and_the_real_encoder_24():
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    frames = slot_frames(vae.decoder)
    assert len(frames) == 32
    assert set(frames.values()) == {2}
    assert sorted(slot_frames(vae.encoder).values()) == [1, 1] + [2] * 22


def test_latents_are_normalised_with_the_numbers_of_the_configuration(tmp_path, video):
    halves = {"latents_mean": [0.5] * 16, "latents_std": [2.0] * 16}
    tiny_vae(**halves).save_pretrained(tmp_path / "a")
    tiny_vae(latents_mean=[0.0] * 16, latents_std=[1.0] * 16).save_pretrained(tmp_path / "b")
    ours, raw = (WanCodec(str(tmp_path / name)).encode(video[:, :5]) for name in "ab")
    torch.testing.assert_close(ours, (raw - 0.5) / 2.0)


def test_bfloat16_works_and_gives_float32(folder, latents):
    expected, _ = WanCodec(folder).decode(latents, {})
    half, state = WanCodec(folder, dtype="bfloat16").decode(latents, {})
    assert half.dtype == torch.float32
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert (half - expected).abs().mean() < 0.01


def test_the_constants_of_a_codec_in_half_precision_are_float32(tmp_path, video):
    """Lightning's bf16-true casts the whole module."""
    tiny_vae(latents_mean=[0.1] * 16, latents_std=[3.3] * 16).save_pretrained(tmp_path)
    codec = WanCodec(str(tmp_path), dtype="bfloat16")
    expected = codec.encode(video[:, :5])
    assert torch.equal(codec.to(torch.bfloat16).encode(video[:, :5]), expected)


def test_what_is_remembered_does_not_show_how_long_the_chunk_was(folder, latents):
    """The first chunk has nine pictures and each later one twelve: compiled code would be compiled twice."""
    codec, rows = WanCodec(folder), latents[:1]
    _, first = codec.decode(rows[:, :3], {})
    _, second = codec.decode(rows[:, 3:6], first)
    assert {name: kept.stride() for name, kept in first.items()} == {
        name: kept.stride() for name, kept in second.items()
    }


@pytest.mark.slow
def test_a_block_behind_the_first_pass_is_compiled_once(folder, latents):
    counter = CompileCounter()
    torch._dynamo.reset()
    vae = WanCodec(folder).vae
    block = vae.decoder.mid_block.resnets[0]
    compiled = torch.compile(wan_fast.residual, backend=counter, dynamic=False)

    def run(way, frames, old):
        memory = wan_fast.Memory(old, {})
        way(block, torch.randn(1, frames, 3, 4, block.conv1.in_channels), memory, "block")
        return memory.new

    with torch.no_grad():
        memory = run(wan_fast.residual, 9, {})
        for _ in range(3):
            memory = run(compiled, 12, memory)
    assert counter.frame_count == 1


@pytest.mark.nightly
def test_compiled_passes_decode_the_same(folder, latents):
    eager, compiled = WanCodec(folder), WanCodec(folder, compile_passes="steady")
    expected, _ = eager.decode(latents[:, :6], {})
    made, _ = decode_in_chunks(compiled, latents[:, :6], 3)
    torch.testing.assert_close(made, expected, rtol=0, atol=ROUNDING)


def test_the_vae_is_frozen_and_its_constants_are_not_saved(folder):
    codec = WanCodec(folder)
    assert not any(weight.requires_grad for weight in codec.parameters())
    assert all(name.startswith("vae.") for name in codec.state_dict())


def refusals(folder, latents):
    codec = WanCodec(folder)
    encoding = codec.encode_next(torch.zeros(1, 1, 3, 16, 16), {})[1]
    return {
        "`frames_per_pass` must be 1 or more, got 0": lambda: WanCodec(folder, frames_per_pass=0),
        "needs `path: fast`": lambda: WanCodec(folder, path="plain", compile_passes="steady"),
        "cannot load Wan's VAE from '/no/such": lambda: WanCodec("/no/such/folder"),
        r"expected latents \[B, F, 16, H, W\]": lambda: codec.decode(latents[:, :, :4], {}),
        "not of this VAE's decoder": lambda: codec.decode(latents, encoding),
        r"must be 1 \+ 4 n, got 4": lambda: codec.encode(torch.zeros(1, 4, 3, 16, 16)),
        "by multiples of 4 frames, got 3": lambda: codec.encode_next(
            torch.zeros(1, 3, 3, 16, 16), encoding
        ),
        "multiples of 8": lambda: codec.encode(torch.zeros(1, 1, 3, 12, 16)),
        "expected video": lambda: codec.encode(torch.zeros(1, 1, 4, 16, 16)),
    }


def test_what_does_not_fit_is_refused(folder, latents):
    for message, call in refusals(folder, latents).items():
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    "config", [{"patch_size": 2, "in_channels": 12, "out_channels": 12}, {"attn_scales": [0.5]}]
)
def test_another_vae_is_refused(tmp_path, config):
    tiny_vae(**config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds another VAE"):
        WanCodec(str(tmp_path))


# -- Wan's own file ---------------------------------------------------------------------------------


def to_native(name):
    """Wan's own name for one of diffusers'."""
    for theirs, ours in (
        (r"^quant_conv", "conv1"),
        (r"^post_quant_conv", "conv2"),
        (r"mid_block\.resnets\.0\.", "middle.0."),
        (r"mid_block\.attentions\.0\.", "middle.1."),
        (r"mid_block\.resnets\.1\.", "middle.2."),
        (r"norm_out", "head.0"),
        (r"conv_out", "head.2"),
        (r"conv_in", "conv1"),
        (r"down_blocks\.", "downsamples."),
        (r"conv_shortcut", "shortcut"),
    ):
        name = re.sub(theirs, ours, name)
    up = r"up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)\."
    name = re.sub(
        up, lambda m: f"upsamples.{4 * int(m[1]) + (int(m[3]) if m[2] == 'resnets' else 3)}.", name
    )
    for theirs, ours in (("norm1", 0), ("conv1", 2), ("norm2", 3), ("conv2", 6)):
        name = re.sub(rf"((samples|middle)\.\d+)\.{theirs}\.", rf"\1.residual.{ours}.", name)
    return name


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A folder of Wan's own, and the VAE that it holds."""
    folder = tmp_path_factory.mktemp("native")
    vae = tiny_vae(dim_mult=[1, 2, 4, 4], num_res_blocks=2)
    weights = {to_native(name): weight for name, weight in vae.state_dict().items()}
    assert {
        "encoder.downsamples.2.resample.1.weight",
        "decoder.upsamples.3.time_conv.bias",
    } <= weights.keys()
    assert {
        "decoder.head.0.gamma",
        "encoder.middle.1.to_qkv.weight",
        "conv1.bias",
    } <= weights.keys()
    torch.save(weights, folder / "Wan2.1_VAE.pth")
    return folder, vae


def test_wans_own_file_gives_the_same_vae(native):
    folder, vae = native
    for place in (folder, folder / "Wan2.1_VAE.pth"):
        loaded = WanCodec(str(place), path="plain").vae
        expected = vae.state_dict()
        assert loaded.state_dict().keys() == expected.keys()
        assert all(torch.equal(w, expected[n]) for n, w in loaded.state_dict().items())
    assert WanCodec(str(folder), dtype="bfloat16").vae.dtype == torch.bfloat16


def test_the_real_vae_has_the_names_of_wans_own_file():
    with torch.device("meta"):
        names = [to_native(name) for name in AutoencoderKLWan().state_dict()]
    assert len(names) == len(set(names)) == 194
    assert not [name for name in names if "block" in name or "resnet" in name or "norm1" in name]


def test_another_file_is_refused(native, tmp_path):
    folder, _ = native
    weights = torch.load(folder / "Wan2.1_VAE.pth", weights_only=True)
    for change, message in (
        (
            lambda w: w.pop("encoder.conv1.weight"),
            "no file of Wan2.1's VAE: it lacks 'encoder.conv_in.weight'",
        ),
        (
            lambda w: w.pop("decoder.head.2.bias"),
            "no file of Wan2.1's VAE: Missing key.*decoder.conv_out.bias",
        ),
        (
            lambda w: w.update(extra=torch.zeros(1)),
            "no file of Wan2.1's VAE: Unexpected key.*extra",
        ),
    ):
        changed = dict(weights)
        change(changed)
        torch.save(changed, tmp_path / "vae.pth")
        with pytest.raises(ValueError, match=message):
            WanCodec(str(tmp_path / "vae.pth"))
    (tmp_path / "vae.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot read weights from .*vae.pth"):
        WanCodec(str(tmp_path / "vae.pth"))
