"""Every attention kernel that runs here, against PyTorch's in float64 on a small case."""

# Shapes: B batch, S tokens, N heads, D head dim, F frames.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.backbones.attention import KERNELS, AttentionMask, attend
from lightning_adastate.backbones.masks import block_mask, diffusion_forcing_mask, token_mask

FRAMES, TOKENS, HEADS, HEAD_DIM = 4, 45, 2, 128

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest difference of values about 1 that rounding explains."""


class KernelReport(NamedTuple):
    """What became of a kernel.

    Args:
        name: As `attention` names it.
        missing: Why it was not run; ``None`` if it was.
        difference: Largest difference from PyTorch's in float64.
        tolerance: What rounding explains.
        failure: What it raised.
    """

    name: str
    missing: str | None = None
    difference: float | None = None
    tolerance: float = 0.0
    failure: str | None = None

    @property
    def is_wrong(self) -> bool:
        """Whether it ran and gave other numbers, or none."""
        if self.failure is not None:
            return True
        return self.difference is not None and not self.difference <= self.tolerance


def try_kernels(device: torch.device) -> list[KernelReport]:
    """Run every kernel that is there once: half precision on a card, float32 on a CPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    shape = (1, FRAMES * TOKENS, HEADS, HEAD_DIM)
    parts = [torch.randn(shape, generator=generator, dtype=torch.float32) for _ in range(3)]
    query, key, value = (part.to(device, dtype) for part in parts)
    return [_try(name, query, key, value) for name in KERNELS]


@torch.no_grad()
def _try(name: str, query_BSND: Tensor, key_BSND: Tensor, value_BSND: Tensor) -> KernelReport:
    missing = KERNELS[name].missing()
    device = query_BSND.device
    if missing is None and name == "flex" and device.type == "cpu":
        missing = "it would be compiled first; it is for parallel training on a card"
    if missing is not None:
        return KernelReport(name, missing)
    mask: AttentionMask | None = None
    dense = None
    if name == "flex":
        frames_FF = diffusion_forcing_mask([1] * FRAMES)
        mask = block_mask(frames_FF, TOKENS, device)
        dense = token_mask(frames_FF.to(device), TOKENS)
    wide = (part.double() for part in (query_BSND, key_BSND, value_BSND))
    expected = attend(*wide, mask=dense)
    try:
        found = attend(query_BSND, key_BSND, value_BSND, mask=mask, kernels=(name,))
        difference = float((found.double() - expected).abs().max())
    except RuntimeError as error:
        return KernelReport(name, failure=(str(error).splitlines() or ["?"])[0])
    return KernelReport(name, None, difference, TOLERANCE[query_BSND.dtype])
