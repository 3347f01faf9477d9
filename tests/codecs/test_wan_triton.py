"""The Triton kernel between Wan's convolutions, run by Triton's interpreter on a CPU, against the plain path.

Triton is no part of PyTorch for CPUs: where it is missing these tests are skipped.
"""

import importlib
import sys

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanRMS_norm
from torch import nn

from lightning_adastate.codecs import WanCodec, wan_fast, wan_triton

KERNEL = "lightning_adastate.codecs.wan_triton_kernel"


@pytest.fixture
def interpreted(monkeypatch):
    """Load the kernel anew with the interpreter on."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, KERNEL, raising=False)
    yield importlib.import_module(KERNEL)
    sys.modules.pop(KERNEL, None)


def norm_of(channels, dtype):
    norm = WanRMS_norm(channels, images=False)
    nn.init.uniform_(norm.gamma, 0.5, 1.5)
    return norm.to(dtype)


@pytest.mark.parametrize("channels", [6, 16, 96])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)], ids=["f32", "bf16"]
)
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
def test_the_kernel_is_bias_norm_and_silu_behind_the_history(
    interpreted, channels, dtype, tolerance, with_bias
):
    """Two streams of two frames of 3 x 5 pixels: no count of rows is a multiple of a program's."""
    x = torch.randn(2, 2, 3, 5, channels).to(dtype)
    bias = torch.randn(channels).to(dtype) if with_bias else None
    history = torch.randn(2, channels, 2, 3, 5).to(dtype)
    norm = norm_of(channels, dtype)
    fused = wan_triton.FusedMemory({"name": history}, {})
    plain = wan_fast.Memory({"name": history}, {})
    made = fused.join_activated("name", norm, x, bias)
    wanted = plain.join_activated("name", norm, x if bias is None else x + bias)
    assert torch.equal(made[:, :2], wanted[:, :2])
    torch.testing.assert_close(made, wanted, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        fused.new["name"], plain.new["name"], rtol=tolerance, atol=tolerance
    )
    assert fused.new["name"].stride() == plain.new["name"].stride()


def test_zeros_are_not_divided_by_zero(interpreted):
    x = torch.zeros(1, 1, 2, 2, 8)
    made = wan_triton.FusedMemory({}, {}).join_activated("name", norm_of(8, torch.float32), x)
    assert torch.equal(made, torch.zeros(1, 3, 2, 2, 8))


def test_a_stream_decodes_and_encodes_as_on_the_plain_path(interpreted, tmp_path):
    torch.manual_seed(0)
    sizes = {"base_dim": 6, "dim_mult": [1, 1], "num_res_blocks": 1, "temperal_downsample": [True]}
    vae = AutoencoderKLWan(**sizes)
    for name, weight in vae.named_parameters():
        if name.endswith(("gamma", "bias")):
            nn.init.uniform_(weight, 0.5, 1.5)
    vae.save_pretrained(tmp_path)
    plain, fused = (WanCodec(str(tmp_path), path=path) for path in ("plain", "triton"))
    latents = torch.randn(1, 3, 16, 1, 2)
    states = [plain.empty(), fused.empty()]
    for part in latents.split([1, 2], dim=1):
        wanted, states[0] = plain.decode(part, states[0])
        made, states[1] = fused.decode(part, states[1])
        torch.testing.assert_close(made, wanted, rtol=0, atol=2e-5)
    video = torch.rand(1, 5, 3, plain.spatial_stride, plain.spatial_stride)
    torch.testing.assert_close(fused.encode(video), plain.encode(video), rtol=0, atol=2e-5)


def test_without_triton_the_path_is_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(
        ValueError, match="`path: triton` is not available: triton does not import"
    ):
        WanCodec(str(tmp_path), path="triton")
