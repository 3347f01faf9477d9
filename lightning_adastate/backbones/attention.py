"""Attention behind one function: PyTorch's own kernel is default and reference, others are options."""

# Shapes: B batch, S query tokens, K key tokens, N heads, D head dim, F frames.

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from lightning_adastate.backbones.masks import block_mask, token_mask

AttentionBackend = Literal["auto", "sdpa", "cudnn", "flash", "flash3", "flex"]
AttentionMask = Tensor | BlockMask
"""Where a query may look: boolean ``[S, K]``, or FlexAttention's blocks."""


class Kernel(ABC):
    """One implementation of attention."""

    needs: str = ""

    def missing(self) -> str | None:
        """Return why it cannot run on this machine, or ``None`` if it can."""
        return None

    @abstractmethod
    def takes(self, query_BSND: Tensor, mask: AttentionMask | None) -> bool:
        """Return whether it applies to these tensors."""

    @abstractmethod
    def run(
        self, query_BSND: Tensor, key_BKND: Tensor, value_BKND: Tensor, mask: AttentionMask | None
    ) -> Tensor:
        """Return the mixed values ``[B, S, N, D]``."""


class Torch(Kernel):
    """PyTorch's scaled dot-product attention, which picks its own kernel."""

    needs = "a mask in tokens, or none"

    def takes(self, query_BSND: Tensor, mask: AttentionMask | None) -> bool:
        """Take all but block masks."""
        return not isinstance(mask, BlockMask)

    def run(
        self, query_BSND: Tensor, key_BKND: Tensor, value_BKND: Tensor, mask: AttentionMask | None
    ) -> Tensor:
        """Call it with heads before tokens."""
        assert not isinstance(mask, BlockMask)
        out = functional.scaled_dot_product_attention(
            query_BSND.transpose(1, 2),
            key_BKND.transpose(1, 2),
            value_BKND.transpose(1, 2),
            attn_mask=mask,
        )
        return out.transpose(1, 2)


class CuDNN(Kernel):
    """cuDNN's kernel, called by its own name.

    ``sdpa_kernel`` would do so too, by flags that are the process's: a VAE in another thread would see them.
    """

    needs = "half precision on CUDA and no mask"

    def missing(self) -> str | None:
        """Ask for a CUDA device."""
        return _no_cuda()

    def takes(self, query_BSND: Tensor, mask: AttentionMask | None) -> bool:
        """Take half precision on CUDA."""
        return _half_on_cuda(query_BSND) and mask is None

    def run(
        self, query_BSND: Tensor, key_BKND: Tensor, value_BKND: Tensor, mask: AttentionMask | None
    ) -> Tensor:
        """Call it with heads before tokens; what a backward pass needs is kept only for one."""
        assert mask is None
        heads_first = [part.transpose(1, 2) for part in (query_BSND, key_BKND, value_BKND)]
        grad = torch.is_grad_enabled() and any(part.requires_grad for part in heads_first)
        made = torch.ops.aten._scaled_dot_product_cudnn_attention(*heads_first, None, grad)
        out: Tensor = made[0]
        return out.transpose(1, 2)


class Flash(Kernel):
    """FlashAttention; the symbol itself is imported, for other distributions share the package's name.

    Args:
        module: Where ``flash_attn_func`` is.
        remedy: How to get it.
    """

    needs = "half precision on CUDA and no mask"

    def __init__(self, module: str, remedy: str) -> None:
        self.module = module
        self.remedy = remedy
        self.call: Callable[..., Tensor | tuple[Tensor, Tensor]] | None = None

    def missing(self) -> str | None:
        """Import it, and ask for a CUDA device."""
        try:
            self.call = importlib.import_module(self.module).flash_attn_func
        except (ImportError, OSError, AttributeError) as error:
            return f"{self.module} does not import ({error}); {self.remedy}"
        return _no_cuda()

    def takes(self, query_BSND: Tensor, mask: AttentionMask | None) -> bool:
        """Take half precision on CUDA."""
        return _half_on_cuda(query_BSND) and mask is None

    def run(
        self, query_BSND: Tensor, key_BKND: Tensor, value_BKND: Tensor, mask: AttentionMask | None
    ) -> Tensor:
        """Call it; some versions return more than the values."""
        if self.call is None:  # a model that came from another process
            self.missing()
        assert mask is None
        assert self.call is not None
        out = self.call(query_BSND, key_BKND, value_BKND)
        return out if isinstance(out, Tensor) else out[0]


class Flex(Kernel):
    """FlexAttention, which skips what a frame mask hides instead of computing it."""

    needs = "a frame mask, and a CUDA device to train"

    def takes(self, query_BSND: Tensor, mask: AttentionMask | None) -> bool:
        """Take block masks; PyTorch has no backward pass of it on the CPU."""
        return isinstance(mask, BlockMask) and (query_BSND.is_cuda or not query_BSND.requires_grad)

    def run(
        self, query_BSND: Tensor, key_BKND: Tensor, value_BKND: Tensor, mask: AttentionMask | None
    ) -> Tensor:
        """Call it, compiled, with heads before tokens."""
        assert isinstance(mask, BlockMask)
        heads_first = (part.transpose(1, 2) for part in (query_BSND, key_BKND, value_BKND))
        out: Tensor = _compiled_flex()(*heads_first, block_mask=mask)
        return out.transpose(1, 2)


KERNELS: dict[str, Kernel] = {
    "sdpa": Torch(),
    "cudnn": CuDNN(),
    "flash": Flash("flash_attn", "install the extra `flash`"),
    "flash3": Flash("flash_attn_interface", "build FlashAttention's `hopper` folder"),
    "flex": Flex(),
}
HOPPER = (9, 0)
"""Capability of the only cards that FlashAttention 3 is built for (H100, H200)."""

CUDNN_FIRST = (2, 11)
"""PyTorch whose attention picks cuDNN on Hopper, 1.7 to 2.3 times as fast as FlashAttention 2 (transformers #48163)."""


def fastest_first(
    capability: tuple[int, int] | None, torch_version: tuple[int, int]
) -> tuple[str, ...]:
    """Return the kernels that ``auto`` may take on a card, best first; nothing but PyTorch's without one."""
    if capability is None:
        return ("sdpa",)
    if capability == HOPPER:
        newer = torch_version >= CUDNN_FIRST
        return ("flash3", "sdpa", "flash") if newer else ("flash3", "flash", "sdpa")
    return ("flash", "sdpa") if capability < HOPPER else ("sdpa",)


def torch_version() -> tuple[int, int]:
    """Return PyTorch's version as (2, 11)."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _candidates(backend: AttentionBackend) -> tuple[str, ...]:
    """Return the kernels that a choice may take, best first. FlexAttention is for masks; other passes are PyTorch's."""
    if backend == "flex":
        return ("flex", "sdpa")
    if backend == "auto":
        there = torch.cuda.is_available()
        return fastest_first(
            torch.cuda.get_device_capability() if there else None, torch_version()
        )
    return (backend,)


def kernels_of(backend: AttentionBackend) -> tuple[str, ...]:
    """Return the names of the kernels that a choice means on this machine, best first.

    Raises:
        ValueError: If a kernel was named that cannot run here.
    """
    reason = None if backend == "auto" else KERNELS[backend].missing()
    if reason is not None:
        raise ValueError(f"attention `{backend}` is not available: {reason}; or use `sdpa`")
    return tuple(name for name in _candidates(backend) if KERNELS[name].missing() is None)


def attend(
    query_BSND: Tensor,
    key_BKND: Tensor,
    value_BKND: Tensor,
    *,
    mask: AttentionMask | None = None,
    kernels: tuple[str, ...] = ("sdpa",),
) -> Tensor:
    """Return ``softmax(q k / sqrt(D)) v``, ``[B, S, N, D]``.

    Args:
        query_BSND: Queries ``[B, S, N, D]``, already rotated where that applies.
        key_BKND: Keys ``[B, K, N, D]``.
        value_BKND: Values ``[B, K, N, D]``.
        mask: Where a query may look; ``None`` is everywhere.
        kernels: Names to choose from; the first that applies is taken.

    Raises:
        ValueError: If none applies to these tensors.
    """
    for name in kernels:
        if KERNELS[name].takes(query_BSND, mask):
            return KERNELS[name].run(query_BSND, key_BKND, value_BKND, mask)
    last = kernels[0]
    raise ValueError(
        f"attention `{last}` needs {KERNELS[last].needs}, got {query_BSND.dtype} on "
        f"{query_BSND.device} {'without' if mask is None else 'with'} a mask; use `auto` or `sdpa`"
    )


def attention_mask(
    mask_FF: Tensor, tokens_per_frame: int, device: torch.device, kernels: tuple[str, ...]
) -> AttentionMask:
    """Return a frame-level mask as the kernels take it."""
    if "flex" in kernels:
        return block_mask(mask_FF, tokens_per_frame, device)
    return token_mask(mask_FF.to(device), tokens_per_frame)


def _no_cuda() -> str | None:
    return None if torch.cuda.is_available() else "there is no CUDA device"


def _half_on_cuda(tensor: Tensor) -> bool:
    return tensor.is_cuda and tensor.element_size() == 2


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=False)
