"""Attention behind one function: PyTorch's own is default and reference, FlashAttention an option."""

# Shapes: B batch, S query tokens, K key tokens, N heads, D head dim.

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

AttentionBackend = Literal["auto", "sdpa", "flash"]


@lru_cache(maxsize=1)
def flash_reason() -> str | None:
    """Return why FlashAttention cannot run here, or ``None`` if it can.

    The symbol itself is imported: other distributions share the package's name.
    """
    try:
        from flash_attn import flash_attn_func  # noqa: F401
    except (ImportError, OSError) as error:
        return f"flash_attn does not import ({error}); install the extra `flash`"
    return None if torch.cuda.is_available() else "there is no CUDA device"


def check_backend(backend: AttentionBackend) -> None:
    """Refuse an explicit choice that cannot run here.

    Raises:
        ValueError: If ``flash`` was asked for and is not available.
    """
    if backend == "flash" and (reason := flash_reason()):
        raise ValueError(f"attention `flash` is not available: {reason}; or use `sdpa`")


def attend(
    query_BSND: Tensor,
    key_BKND: Tensor,
    value_BKND: Tensor,
    *,
    mask_SK: Tensor | None = None,
    backend: AttentionBackend = "sdpa",
) -> Tensor:
    """Return ``softmax(q k / sqrt(D)) v``, ``[B, S, N, D]``.

    Args:
        query_BSND: Queries ``[B, S, N, D]``, already rotated where that applies.
        key_BKND: Keys ``[B, K, N, D]``.
        value_BKND: Values ``[B, K, N, D]``.
        mask_SK: Where a query may look, boolean ``[S, K]``; ``None`` is everywhere.
        backend: ``auto`` takes FlashAttention where it applies (CUDA, half precision, no mask).

    Raises:
        ValueError: If ``flash`` was asked for and does not apply to these tensors.
    """
    if backend != "sdpa":
        applies = mask_SK is None and query_BSND.is_cuda and query_BSND.element_size() == 2
        if applies and flash_reason() is None:
            from flash_attn import flash_attn_func

            result: Tensor = flash_attn_func(query_BSND, key_BKND, value_BKND)
            return result
        if backend == "flash":
            raise ValueError(
                "attention `flash` needs half precision on CUDA and no mask, got "
                f"{query_BSND.dtype} on {query_BSND.device} {'with' if mask_SK is not None else 'without'}"
                " a mask; use `auto` or `sdpa`"
            )
    out = functional.scaled_dot_product_attention(
        query_BSND.transpose(1, 2),
        key_BKND.transpose(1, 2),
        value_BKND.transpose(1, 2),
        attn_mask=mask_SK,
    )
    return out.transpose(1, 2)
