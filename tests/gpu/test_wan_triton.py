"""The VAE's Triton kernel against the plain path, compiled. Not run yet: no GPU was there."""

import pytest
import torch
from torch import nn

from lightning_adastate.codecs import wan_fast, wan_triton


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [96, 192, 384])
def test_the_kernel_is_the_plain_path_on_a_gpu(channels):
    norm = nn.Module()
    norm.gamma = torch.rand(channels, device="cuda", dtype=torch.bfloat16) + 0.5
    x = torch.randn(1, 4, 60, 104, channels, device="cuda", dtype=torch.bfloat16)
    made = wan_triton.FusedMemory({}, {}).join_activated("name", norm, x)
    wanted = wan_fast.Memory({}, {}).join_activated("name", norm, x)
    torch.testing.assert_close(made, wanted, rtol=2e-2, atol=2e-2)
