"""A fingerprint of weights reads all of them and depends on nothing else; a stream goes on with its own weights."""

import pytest
import torch
from tiny import LATENT, golden_backbone, streamer, text
from torch import nn

from lightning_adastate.anchors import EMAAnchor, StaticAnchor
from lightning_adastate.backbones import LoRABackbone
from lightning_adastate.noise import RepeatedNoise
from lightning_adastate.streaming.state_file import load_stream_state, save_stream_state
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.weights import fingerprint as module
from lightning_adastate.weights.fingerprint import weights_fingerprint


def network(*, dtype=torch.float32, size=10_007):
    """One big tensor of odd length, one small, one scalar, and a buffer."""
    net = nn.Module()
    draw = torch.Generator().manual_seed(0)
    net.big = nn.Parameter(torch.randn(size, generator=draw).to(dtype))
    net.small = nn.Parameter(torch.randn(3, 5, generator=draw).to(dtype))
    net.scalar = nn.Parameter(torch.ones((), dtype=dtype))
    net.register_buffer("steps", torch.arange(7))
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_one_changed_weight_anywhere_is_noticed(dtype, monkeypatch):
    monkeypatch.setattr(module, "ROW", 1024)
    monkeypatch.setattr(module, "GROUP", 4)
    net = network(dtype=dtype)
    before = weights_fingerprint(net)
    assert weights_fingerprint(network(dtype=dtype)) == before
    for name, place in (
        ("big", 0),
        ("big", 4_095),
        ("big", 9_001),
        ("big", -1),
        ("small", 7),
        ("steps", 6),
        ("scalar", 0),
    ):
        flat = getattr(net, name).data.view(-1)
        own = flat[place].clone()
        bits = flat[place : place + 1 or None].view(torch.uint8)
        bits[0] ^= 1  # the smallest change there is
        assert weights_fingerprint(net) != before, (name, place)
        flat[place] = own
    assert weights_fingerprint(net) == before


def test_places_names_shapes_and_formats_count():
    before = weights_fingerprint(network(size=100))
    swapped = network(size=100)
    swapped.big.data[[3, 90]] = swapped.big.data[[90, 3]]
    reshaped = network(size=100)
    reshaped.small = nn.Parameter(reshaped.small.data.reshape(5, 3))
    renamed = network(size=100)
    renamed.tiny, renamed.small = renamed.small, None
    half = network(size=100).to(torch.bfloat16)
    marks = {weights_fingerprint(each) for each in (swapped, reshaped, renamed, half)}
    assert len(marks | {before}) == 5


def test_memory_layout_does_not_count():
    net, other = network(size=100), network(size=100)
    other.small = nn.Parameter(other.small.data.T.contiguous().T)
    assert not other.small.is_contiguous()
    assert weights_fingerprint(net) == weights_fingerprint(other)


def test_sums_are_exact():
    """The largest sum of a row is a whole number that float64 holds."""
    assert module.ROW * 65521 * 2**15 < 2**53
    full = nn.ParameterList([torch.full((module.ROW + 3,), -0.0)])  # the bits of -32768 and 0
    before = weights_fingerprint(full)
    full[0].data[-1] = 0.0
    assert weights_fingerprint(full) != before


def test_an_adapter_is_part_of_it():
    pytest.importorskip("peft")
    plain = weights_fingerprint(golden_backbone())
    adapted = LoRABackbone(golden_backbone(), rank=2, checkpoints="adapter")
    before = weights_fingerprint(adapted)
    changed = next(p for name, p in adapted.named_parameters() if "lora_B" in name)
    changed.data[0, 0] += 1e-3
    after = weights_fingerprint(adapted)
    frozen = next(p for name, p in adapted.named_parameters() if "lora" not in name)
    frozen.data.view(-1)[-1] += 1e-3
    assert len({plain, before, after, weights_fingerprint(adapted)}) == 4


# -- streams ----------------------------------------------------------------------------------------


def saved(model, path, fingerprint):
    save_stream_state(path, model.start(text(), latent_shape=LATENT), fingerprint=fingerprint)
    return path


def test_a_stream_is_refused_by_other_weights(tmp_path):
    model = streamer()
    path = saved(model, tmp_path / "state.safetensors", model.fingerprint)
    load_stream_state(path, fingerprint=streamer().fingerprint)
    with torch.no_grad():
        model.backbone.blocks[1].ffn[2].weight[50, 100] += 1e-4
    with pytest.raises(ValueError, match=r"with other weights.*`generation.weights`"):
        load_stream_state(path, fingerprint=model.fingerprint)
    load_stream_state(path, fingerprint=model.components_fingerprint)


class Gained(StaticAnchor):
    """An anchor with a weight of its own."""

    def __init__(self, num_frames: int = 1) -> None:
        super().__init__(num_frames)
        self.gain = nn.Parameter(torch.ones(3))


def test_an_anchors_weights_count_too(tmp_path):
    model = streamer(Gained())
    path = saved(model, tmp_path / "state.safetensors", model.fingerprint)
    model.anchor.gain.data[1] = 2.0
    with pytest.raises(ValueError, match="with other weights"):
        load_stream_state(path, fingerprint=model.fingerprint)


def test_a_stream_without_a_mark_of_weights_fits_all(tmp_path):
    model, other = streamer(), streamer(backbone=golden_backbone(1))
    path = saved(model, tmp_path / "state.safetensors", model.components_fingerprint)
    load_stream_state(path, fingerprint=other.fingerprint)
    with pytest.raises(ValueError, match="made with another anchor, cache"):
        load_stream_state(path, fingerprint=streamer(EMAAnchor(1)).components_fingerprint)


def test_other_noise_is_refused(tmp_path):
    model = streamer()
    path = saved(model, tmp_path / "state.safetensors", model.fingerprint)
    other = Streamer(
        model.backbone,
        anchor=model.anchor,
        cache=model.cache,
        schedule=model.schedule,
        noise=RepeatedNoise(),
    )
    with pytest.raises(ValueError, match="was made with another noise;"):
        load_stream_state(path, fingerprint=other.fingerprint)


def test_streaming_takes_no_fingerprint(monkeypatch):
    """Reading all weights once per chunk would halt the device."""
    model = streamer()

    def refuse(network):
        raise AssertionError("weights are read while streaming")

    monkeypatch.setattr("lightning_adastate.streaming.streamer.weights_fingerprint", refuse)
    assert len(list(model.stream(model.start(text(), latent_shape=LATENT), 2))) == 2
