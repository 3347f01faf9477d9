"""Frame-level masks of the parallel forward: which frames a frame may look at."""

# Shapes: F frames, S tokens, Q blocks of tokens; masks are boolean [F query, F key], True where a query may look.

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128
"""Tokens of a block of FlexAttention, PyTorch's default."""


def chunk_ids(chunks: Sequence[int]) -> Tensor:
    """Return the chunk index of every frame, ``[F]``."""
    return torch.repeat_interleave(torch.arange(len(chunks)), torch.tensor(list(chunks)))


def diffusion_forcing_mask(chunks: Sequence[int], *, window_frames: int | None = None) -> Tensor:
    """Let every frame see its own chunk and all earlier ones, ``[F, F]``.

    Args:
        chunks: Chunk sizes in order; they may differ (a first chunk of one frame).
        window_frames: See only this many frames, counted back from the end of the own chunk.
    """
    ids = chunk_ids(chunks)
    mask = ids[:, None] >= ids[None, :]
    if window_frames is not None:
        ends = torch.tensor(list(chunks)).cumsum(0)[ids]
        frames = torch.arange(len(ids))
        mask &= frames[None, :] >= ends[:, None] - window_frames
    return mask


def teacher_forcing_mask(chunks: Sequence[int], *, window_frames: int | None = None) -> Tensor:
    """Mask a sequence of clean frames followed by noisy ones, ``[2F, 2F]``.

    Clean frames are block-causal among themselves. A noisy frame sees its own noisy chunk and the
    clean frames of the chunks before.

    Args:
        chunks: Chunk sizes in order.
        window_frames: See only this many frames, counted back from the end of the own chunk.
    """
    ids = chunk_ids(chunks)
    own = ids[:, None] == ids[None, :]
    before = diffusion_forcing_mask(chunks, window_frames=window_frames) & ~own
    clean = torch.cat([own | before, torch.zeros_like(own)], dim=1)
    noisy = torch.cat([before, own], dim=1)
    return torch.cat([clean, noisy])


def token_mask(mask_FF: Tensor, tokens_per_frame: int) -> Tensor:
    """Spread a frame-level mask over tokens."""
    return mask_FF.repeat_interleave(tokens_per_frame, 0).repeat_interleave(tokens_per_frame, 1)


def block_mask(mask_FF: Tensor, tokens_per_frame: int, device: torch.device) -> BlockMask:
    """Return a frame-level mask as FlexAttention's blocks, without ever making it in tokens.

    Args:
        mask_FF: The mask.
        tokens_per_frame: Tokens of a frame.
        device: Where it is to be.
    """
    rows = tuple(tuple(row) for row in mask_FF.bool().tolist())
    return _block_mask(rows, tokens_per_frame, torch.device(device))


@lru_cache(maxsize=8)
def _block_mask(
    rows: tuple[tuple[bool, ...], ...], tokens_per_frame: int, device: torch.device
) -> BlockMask:
    """Say which blocks are computed, and which of them need no mask. A block may touch several frames.

    Memoised, so that training does not compile anew for each batch.
    """
    frames_FF = torch.tensor(rows)
    total = len(rows) * tokens_per_frame
    starts = torch.arange(0, total, BLOCK)
    ends = (starts + BLOCK).clamp(max=total)
    first = torch.arange(len(rows)) * tokens_per_frame
    touches_QF = ((first < ends[:, None]) & (first + tokens_per_frame > starts[:, None])).float()
    seen_QQ = touches_QF @ frames_FF.float() @ touches_QF.T > 0
    hidden_QQ = touches_QF @ (~frames_FF).float() @ touches_QF.T > 0
    seen = _as_indices(seen_QQ & hidden_QQ, device)
    full = _as_indices(seen_QQ & ~hidden_QQ, device)
    table = frames_FF.to(device)

    def may_look(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del batch, head
        return table[query // tokens_per_frame, key // tokens_per_frame]

    return BlockMask.from_kv_blocks(
        *seen, *full, BLOCK_SIZE=BLOCK, mask_mod=may_look, seq_lengths=(total, total)
    )


def _as_indices(blocks_QQ: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return how many blocks each row has, and their columns in order, the rest behind them."""
    order = blocks_QQ.int().argsort(dim=-1, descending=True, stable=True)
    parts = (blocks_QQ.sum(-1), order)
    counts, columns = (part[None, None].to(device, torch.int32) for part in parts)
    return counts, columns
