"""Networks whose weights, gradients and optimiser states are sharded over processes (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from lightning_adastate.backbones import Backbone
from lightning_adastate.streaming.streamer import Streamer

OUTSIDE_FORWARD = ("text_kv", "embed_time")
"""Methods of a backbone that use its weights and are called by themselves."""


def data_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """Return the processes that have data of their own: all of them.

    Raises:
        ValueError: If some are to share their data and split tensors (Lightning's default on one node).
    """
    split = mesh["tensor_parallel"].size()
    if split > 1:
        raise ValueError(
            f"tensors are not split over processes: set the strategy's `tensor_parallel_size` to 1, got {split}, "
            f"and its `data_parallel_size` to the number of processes, {mesh.size()}"
        )
    return mesh["data_parallel"]


def shard_networks(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shard every network of a stage once: generator, average, and what it has beside them.

    Raises:
        ValueError: If an anchor has parameters: it is no network that FSDP could gather.
    """
    for part in module.modules():
        if isinstance(part, Streamer) and any(True for _ in part.anchor.parameters()):
            raise ValueError(
                f"{type(part.anchor).__name__} has parameters, which FSDP does not shard; use the "
                "strategy ddp"
            )
    for network in list(_networks(module)):
        if not isinstance(network, FSDPModule):
            shard_network(network, mesh)


def _networks(module: nn.Module) -> Iterator[Backbone]:
    """Yield the backbones in a module; one that wraps another counts as one."""
    for child in module.children():
        if isinstance(child, Backbone):
            yield child
        else:
            yield from _networks(child)


def shard_network(backbone: Backbone, mesh: DeviceMesh) -> None:
    """Shard a backbone's parameters over the processes of ``mesh``, in place.

    Every list of its blocks is gathered block by block. FSDP gathers weights around ``forward`` alone, so the
    methods that are called outside it are made known: those of the backbone, and those of the cross-attention
    that the text's keys and values come from.
    """
    for blocks in [each for each in backbone.modules() if isinstance(each, nn.ModuleList)]:
        for block in blocks:
            attention = getattr(block, "cross_attn", None)
            if isinstance(attention, nn.Module):
                fully_shard(attention, mesh=mesh)
                for name in ("key_value", "query", "output"):
                    register_fsdp_forward_method(attention, name)
            fully_shard(block, mesh=mesh)
    fully_shard(backbone, mesh=mesh)
    for name in OUTSIDE_FORWARD:
        register_fsdp_forward_method(backbone, name)
    backbone.register_forward_hook(_let_go)


def _let_go(backbone: nn.Module, args: object, output: object) -> None:
    """Free what was gathered: after a pass without gradients FSDP keeps a root's, and an average would miss them."""
    del args, output
    assert isinstance(backbone, FSDPModule)
    backbone.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor as one, gathered from all processes if it is sharded. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
