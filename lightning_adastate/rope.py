"""Rotary position embedding of video tokens at given positions, computed and not looked up."""

# Shapes: B batch, S tokens (frame-major), N heads, D head dim, P = D / 2 rotated pairs.

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

THETA = 10000.0
"""Base of the frequencies in Wan 2.1."""


class RopeTable(NamedTuple):
    """Every token's angles, ``[..., S, 1, P]``: cosine and sine in float32, and both as one complex number."""

    cos_S1P: Tensor
    sin_S1P: Tensor
    turn_S1P: Tensor

    @property
    def num_tokens(self) -> int:
        """Count the tokens."""
        return self.cos_S1P.shape[-3]


def split_pairs(head_dim: int) -> tuple[int, int, int]:
    """Return how many of the ``head_dim / 2`` pairs turn with time, height and width (22, 21, 21 of 64).

    Raises:
        ValueError: If ``head_dim`` is odd.
    """
    if head_dim % 2:
        raise ValueError(f"the head dimension must be even for rotary embedding, got {head_dim}")
    space = head_dim // 6
    return head_dim // 2 - 2 * space, space, space


@lru_cache(maxsize=64)
def rope_table(
    positions: tuple[float, ...], height: int, width: int, head_dim: int, device: torch.device
) -> RopeTable:
    """Return the table of frames at temporal ``positions`` over a ``height x width`` grid of tokens.

    Angles are made in float64 and rounded once, so there is no longest video. Tables are memoised:
    positions repeat from chunk to chunk. Positions should be small: subtract a common integer first.
    """
    with torch.inference_mode(False):  # a memoised table must also serve a later training step
        axes = (
            torch.tensor(positions, dtype=torch.float64),
            torch.arange(height, dtype=torch.float64),
            torch.arange(width, dtype=torch.float64),
        )
        parts = []
        for axis, (index, pairs) in enumerate(zip(axes, split_pairs(head_dim), strict=True)):
            exponent = torch.arange(pairs, dtype=torch.float64) / max(1, pairs)
            angle = index[:, None] * THETA**-exponent
            shape = [1, 1, 1, pairs]
            shape[axis] = len(index)
            parts.append(angle.reshape(shape).expand(len(positions), height, width, pairs))
        return _table(torch.cat(parts, dim=-1).flatten(0, 2).unsqueeze(1), device)


def places_table(
    time_LBFT: Tensor, row_LBFT: Tensor, column_LBFT: Tensor, head_dim: int
) -> RopeTable:
    """Return the table of single tokens at any places, ``[L, B, S, 1, P]``; axes are broadcast.

    Made anew whenever it is asked for: places are data, and only a few tokens have places of their own.
    """
    parts = []
    places = torch.broadcast_tensors(time_LBFT, row_LBFT, column_LBFT)
    for place, pairs in zip(places, split_pairs(head_dim), strict=True):
        steps = torch.arange(pairs, dtype=torch.float64, device=place.device)
        parts.append(place.double().unsqueeze(-1) * THETA ** -(steps / max(1, pairs)))
    angles = torch.cat(parts, dim=-1).flatten(2, 3).unsqueeze(3)
    return _table(angles, angles.device)


def rotate(x_BSND: Tensor, table: RopeTable) -> Tensor:
    """Rotate adjacent pairs of the last axis, in float32, and return in the input's dtype.

    Pairs are multiplied as complex numbers, which is one kernel; a compiler fuses the real form, and knows
    no complex one.

    Args:
        x_BSND: Queries or keys ``[..., S, N, D]``.
        table: Angles of the S tokens.
    """
    pairs = x_BSND.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        even, odd = pairs.unbind(-1)
        cos, sin, _ = table
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * table.turn_S1P)
    return turned.flatten(-2).to(x_BSND.dtype)


def rotate_into(out_BSND: Tensor, x_BSND: Tensor, table: RopeTable) -> None:
    """Write what ``rotate`` returns where it is to be, to the last bit, with no copy of it on the way.

    In float32 that is one kernel that reads once and writes once.

    Args:
        out_BSND: Memory of the input's shape; may be a slice of a longer window.
        x_BSND: Keys ``[..., S, N, D]``.
        table: Angles of the S tokens.
    """
    pairs = x_BSND.float().unflatten(-1, (-1, 2))
    turned = torch.view_as_complex(pairs)
    if x_BSND.dtype == out_BSND.dtype == torch.float32:
        there = torch.view_as_complex(out_BSND.unflatten(-1, (-1, 2)))
        torch.mul(turned, table.turn_S1P, out=there)
    elif x_BSND.dtype == torch.float32:
        out_BSND.copy_(rotate(x_BSND, table))
    else:
        # The float32 copy is ours, so it is turned in place.
        turned.mul_(table.turn_S1P)
        out_BSND.copy_(torch.view_as_real(turned).flatten(-2))


def _table(angles: Tensor, device: torch.device) -> RopeTable:
    """Round float64 angles' cosine and sine once."""
    cos, sin = (part.to(device, torch.float32) for part in (angles.cos(), angles.sin()))
    return RopeTable(cos, sin, torch.complex(cos, sin))
