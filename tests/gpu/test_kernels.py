"""Attention kernels against PyTorch's default, on the card that is there."""

import pytest
import torch

from lightning_adastate.backbones.attention import KERNELS, attend
from lightning_adastate.backbones.masks import block_mask, diffusion_forcing_mask, token_mask

pytestmark = pytest.mark.gpu


def test_flex_attention_trains():
    torch.manual_seed(0)
    frames, tokens, device = diffusion_forcing_mask([1, 2, 3]), 45, torch.device("cuda")
    q, k, v = (torch.randn(2, 6 * tokens, 2, 16, device=device) for _ in range(3))
    grads = []
    for mask, kernels in (
        (token_mask(frames.to(device), tokens), ("sdpa",)),
        (block_mask(frames, tokens, device), ("flex",)),
    ):
        parts = [part.clone().requires_grad_() for part in (q, k, v)]
        attend(*parts, mask=mask, kernels=kernels).square().sum().backward()
        grads.append([part.grad for part in parts])
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["cudnn", "flash", "flash3"])
def test_every_kernel_that_is_there_equals_pytorchs_default(name, grad):
    if KERNELS[name].missing():
        pytest.skip(KERNELS[name].missing())
    torch.manual_seed(0)
    drawn = [torch.randn(1, n, 2, 128, device="cuda").bfloat16() for n in (130, 500, 500)]
    found = []
    for kernel in (name, "sdpa"):
        parts = [part.clone().requires_grad_(grad) for part in drawn]
        out = attend(*parts, kernels=(kernel,))
        if grad:
            out.float().square().sum().backward()
        found.append([out.detach(), *(part.grad for part in parts if grad)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-2, rtol=2e-2 if grad else 0)
