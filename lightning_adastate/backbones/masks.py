"""Frame-level masks of the parallel forward: which frames a frame may look at."""

# Shapes: F frames; masks are boolean [F query, F key], True where a query may look.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
