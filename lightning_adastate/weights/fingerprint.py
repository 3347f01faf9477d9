"""A short mark of a network's weights that reads all of them, on their device."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from lightning_adastate.backbones.sharded import is_sharded

ROW = 1 << 16
"""Numbers in one sum: below 2^53 whatever they are, so float64 holds it exactly."""

GROUP = 64
"""Sums made at a time; bounds the memory."""


@torch.no_grad()
def weights_fingerprint(network: nn.Module) -> str:
    """Return a short hash of names, formats, shapes and values of all parameters and buffers.

    The bits of the values are read as integers, weighted by their place and summed, row by row, on their
    device. The sums are exact: the mark does not depend on the device, the order of summation or sharding, and
    one changed weight changes it. The same values in another format have another mark. The host waits once.

    Args:
        network: The network. Sharded tensors are gathered one at a time: all processes must call this.
    """
    digest = hashlib.sha256()
    sums = []
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        whole = tensor.full_tensor() if is_sharded(tensor) else tensor
        digest.update(f"/{name}/{whole.dtype}/{tuple(whole.shape)}".encode())
        sums.append(_row_sums(whole))
    if sums:
        device = sums[0].device
        digest.update(torch.cat([each.to(device) for each in sums]).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _row_sums(tensor: Tensor) -> Tensor:
    """Return one sum per row of numbers, exact in float64, on the tensor's device."""
    kind = torch.int16 if tensor.element_size() > 1 else torch.uint8
    values = tensor.detach().contiguous().flatten().view(kind)
    place = torch.arange(min(ROW, len(values)), device=values.device)
    place = (place * 40503 % 65521 + 1).double()  # never 0: each place counts
    whole = len(values) // ROW * ROW
    rows, rest = values[:whole].view(-1, ROW), values[whole:]
    sums = [group.double() @ place for group in rows.split(GROUP)] if whole else []
    if len(rest):
        sums.append((rest.double() @ place[: len(rest)])[None])
    return torch.cat(sums) if sums else place
