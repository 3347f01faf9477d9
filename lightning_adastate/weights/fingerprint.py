"""A short mark of a network's weights that reads all of them, on their device."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

PIECE = 1 << 22
"""Numbers that are summed at a time; bounds the memory, and keeps a sum below 2^53."""


@torch.no_grad()
def weights_fingerprint(network: nn.Module) -> str:
    """Return a short hash of names, formats, shapes and values of all parameters and buffers.

    The bits of the values are read as integers, weighted by their place and summed, piece by piece, on their
    device. Integer sums are exact: the mark does not depend on the device, the order of summation or sharding, and
    one changed weight changes it. The same values in another format have another mark. The host waits once.

    Args:
        network: The network. Sharded tensors are gathered one at a time: all processes must call this.
    """
    digest = hashlib.sha256()
    sums = []
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        digest.update(f"/{name}/{whole.dtype}/{tuple(whole.shape)}".encode())
        sums.append(_piece_sums(whole))
    if sums:
        device = sums[0].device
        digest.update(torch.cat([each.to(device) for each in sums]).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _piece_sums(tensor: Tensor) -> Tensor:
    """Return one sum per piece, int64, on the tensor's device."""
    kind = torch.int16 if tensor.element_size() > 1 else torch.uint8
    values = tensor.detach().contiguous().flatten().view(kind)
    place = torch.arange(min(PIECE, len(values)), device=values.device)
    place = place.mul_(40503).remainder_(65521).add_(1)  # never 0: each place counts
    sums = [(place[: len(piece)] * piece).sum() for piece in values.split(PIECE)]
    return torch.stack(sums) if sums else values.new_zeros(0, dtype=torch.int64)
