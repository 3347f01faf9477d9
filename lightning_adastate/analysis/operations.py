"""What a chunk costs, by arithmetic: frames attended to, bytes of keys and values, floating-point operations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from lightning_adastate.analysis.layout import ChunkLayout

GIGA = 1e9
TERA = 1e12


@dataclass(frozen=True)
class Geometry:
    """Sizes of a video transformer, as far as they decide what a pass costs.

    Args:
        num_layers: Blocks.
        num_heads: Heads.
        head_dim: Width of a head.
        ffn_dim: Width inside the feed-forward layers.
        rows: Rows of a frame's tokens.
        columns: Columns of a frame's tokens.
        text_tokens: Tokens of the prompt.
        text_dim: Width of the prompt's embedding.
        patch_values: Numbers of the latent frame that become one token.
        freq_dim: Width of the sinusoidal time embedding.
        value_bytes: Bytes of a number in the cache.
    """

    num_layers: int
    num_heads: int
    head_dim: int
    ffn_dim: int
    rows: int
    columns: int
    text_tokens: int
    text_dim: int
    patch_values: int
    freq_dim: int
    value_bytes: int

    @property
    def dim(self) -> int:
        """Return the width of a token."""
        return self.num_heads * self.head_dim

    @property
    def tokens(self) -> int:
        """Return the tokens of a frame."""
        return self.rows * self.columns

    @property
    def frame_bytes(self) -> int:
        """Return the bytes of a frame's keys and values in all layers."""
        return 2 * self.num_layers * self.tokens * self.dim * self.value_bytes


WAN_1_3B = Geometry(
    num_layers=30,
    num_heads=12,
    head_dim=128,
    ffn_dim=8960,
    rows=30,
    columns=52,
    text_tokens=512,
    text_dim=4096,
    patch_values=64,
    freq_dim=256,
    value_bytes=2,
)
"""Wan 2.1 T2V 1.3B at 480 x 832 in bfloat16, which all papers of the field report on."""


class Flops(NamedTuple):
    """Floating-point operations of matrix products; a multiply-add counts as two.

    Args:
        linear: Projections and feed-forward layers.
        self_attention: Scores and sums over frames.
        cross_attention: Scores and sums over the prompt.
        embedding: Patches, times and the prompt.
    """

    linear: float
    self_attention: float
    cross_attention: float
    embedding: float

    @property
    def total(self) -> float:
        """Return the sum."""
        return sum(self)


def pass_flops(
    geometry: Geometry, query_frames: float, key_frames: float, *, kv_only: bool = False
) -> Flops:
    """Return what one pass costs whose prompt's keys and values are cached.

    Args:
        geometry: Sizes.
        query_frames: Frames it computes.
        key_frames: Frames it attends to, its own counted in.
        kv_only: It ends at the last layer's keys and values.
    """
    dim, layers = geometry.dim, geometry.num_layers
    whole = layers - 1 if kv_only else layers
    queries, keys = query_frames * geometry.tokens, key_frames * geometry.tokens
    weights = 4 * dim * dim + 2 * dim * dim + 2 * dim * geometry.ffn_dim
    times = query_frames * (geometry.freq_dim * dim + dim * dim + 6 * dim * dim)
    text = geometry.text_tokens * (geometry.text_dim * dim + dim * dim)
    return Flops(
        linear=2 * queries * (whole * weights + (layers - whole) * 2 * dim * dim),
        self_attention=whole * 4 * queries * keys * dim,
        cross_attention=whole * 4 * queries * geometry.text_tokens * dim,
        embedding=(1 if kv_only else 2) * (2 * queries * geometry.patch_values * dim)
        + 2 * times
        + 2 * text,
    )


def chunk_flops(geometry: Geometry, chunk: ChunkLayout) -> Flops:
    """Return what all passes of a chunk cost, what its events encode anew counted in."""
    return _sum(
        pass_flops(geometry, seen.num_queries, seen.num_keys)
        for seen in chunk.passes
        for _ in seen.timesteps
    )


class ChunkCost(NamedTuple):
    """What a chunk costs.

    Args:
        passes: Calls of the backbone.
        attended: Frames the widest pass attends to, by their tokens.
        attended_bytes: Keys and values of these frames.
        kept_bytes: Keys and values that wait for the next chunk.
        flops: Operations of all its passes.
    """

    passes: int
    attended: float
    attended_bytes: float
    kept_bytes: float
    flops: Flops


def chunk_cost(geometry: Geometry, chunk: ChunkLayout) -> ChunkCost:
    """Return what a chunk costs."""
    attended = max(seen.num_keys for seen in chunk.passes)
    return ChunkCost(
        passes=sum(len(seen.timesteps) for seen in chunk.passes),
        attended=attended,
        attended_bytes=attended * geometry.frame_bytes,
        kept_bytes=chunk.kept * geometry.frame_bytes,
        flops=chunk_flops(geometry, chunk),
    )


def _sum(parts: Iterable[Flops]) -> Flops:
    return Flops(*(sum(each) for each in zip(*parts, strict=True)))
