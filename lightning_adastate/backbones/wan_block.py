"""The blocks of Wan 2.1's transformer: attention, modulation, head."""

# Shapes: B batch, F frames, S tokens (frame-major), N heads, D head dim, E model dim.
# Parameter names are Wan's own.

from __future__ import annotations

import logging
from functools import lru_cache
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from lightning_adastate.backbones.attention import AttentionMask, attend
from lightning_adastate.rope import RopeTable, rotate

log = logging.getLogger(__name__)

BlockOutput = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
Room = tuple[Tensor, Tensor]
"""Memory ``[B, S, N, D]`` where raw keys and values are to live."""


class Keeps(NamedTuple):
    """What a block leaves besides its tokens.

    Args:
        kv: Raw keys and values.
        query: Raw queries.
        ends: Whether that is all: attention and feed-forward are not run.
        room: Where keys and values are written, without gradients; ``None`` is new memory.
    """

    kv: bool = False
    query: bool = False
    ends: bool = False
    room: Room | None = None


KEEPS_NOTHING = Keeps()


class RMSNorm(nn.Module):
    """Normalise over the whole model dimension: float32 inside, cast before the weight (as Wan does).

    The weight is cast as well: under autocast queries and keys are then of one dtype with the values.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the normalised input in its own dtype, written to ``out`` if there is one."""
        normed = rms_norm(x.float(), (x.shape[-1],), None, self.eps)
        return torch.mul(normed.to(x.dtype), self.weight.to(x.dtype), out=out)


class WanAttention(nn.Module):
    """Hold the projections and qk-norms of one attention, self or cross."""

    def __init__(self, dim: int, num_heads: int, eps: float, kernels: tuple[str, ...]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kernels = kernels
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)

    def query(self, x_BSE: Tensor) -> Tensor:
        """Return normalised queries ``[B, S, N, D]``."""
        return self._heads(self.norm_q(self.q(x_BSE)))

    def key_value(self, x_BSE: Tensor, room: Room | None = None) -> tuple[Tensor, Tensor]:
        """Return normalised keys and values ``[B, S, N, D]``, not rotated; in ``room`` if there is one."""
        key_room, value_room = (None, None) if room is None else (each.flatten(2) for each in room)
        key = self.norm_k(self.k(x_BSE), key_room)
        return self._heads(key), self._heads(_linear_into(self.v, x_BSE, value_room))

    def output(
        self, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask | None
    ) -> Tensor:
        """Attend and project, ``[B, S, E]``."""
        mixed = attend(query, key, value, mask=mask, kernels=self.kernels)
        out: Tensor = self.o(rearrange(mixed, "b s n d -> b s (n d)"))
        return out

    def _heads(self, x_BSE: Tensor) -> Tensor:
        return rearrange(x_BSE, "b s (n d) -> b s n d", n=self.num_heads)


class WanBlock(nn.Module):
    """One transformer block with per-frame modulation."""

    def __init__(
        self, dim: int, ffn_dim: int, num_heads: int, eps: float, kernels: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.self_attn = WanAttention(dim, num_heads, eps, kernels)
        self.norm3 = nn.LayerNorm(dim, eps)
        self.cross_attn = WanAttention(dim, num_heads, eps, kernels)
        self.norm2 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x_BSE: Tensor,
        modulation_BF6E: Tensor,
        tables: tuple[RopeTable, RopeTable],
        text: tuple[Tensor, Tensor],
        context: tuple[Tensor, Tensor, int, bool] | None,
        mask: AttentionMask | None,
        keeps: Keeps = KEEPS_NOTHING,
    ) -> BlockOutput:
        """Return the tokens after the block, and raw keys, values and queries ``[B, S, N, D]`` where they are kept.

        A block that ends at its keys and values returns the tokens as they came.
        """
        frames = modulation_BF6E.shape[1]
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (
            (self.modulation + modulation_BF6E).unsqueeze(3).unbind(2)
        )

        normed = _modulate(self.norm1(x_BSE), frames, shift_a, scale_a)
        raw_query = None
        if keeps.query or not keeps.ends:
            raw_query = self.self_attn.query(normed)
        raw_key, value = self.self_attn.key_value(normed, keeps.room)
        # What is not kept is not returned: a compiled block then never writes it.
        kept = (
            raw_key if keeps.kv else None,
            value if keeps.kv else None,
            raw_query if keeps.query else None,
        )
        if keeps.ends:
            return x_BSE, *kept
        assert raw_query is not None
        query = rotate(raw_query, tables[0])
        key, values = _join(context, rotate(raw_key, tables[1]), value)
        mixed = self.self_attn.output(query, key, values, mask)
        x_BSE = _add_gated(x_BSE, mixed, frames, gate_a)

        query = self.cross_attn.query(self.norm3(x_BSE))
        x_BSE = x_BSE + self.cross_attn.output(query, *text, None)

        fed = self.ffn(_modulate(self.norm2(x_BSE), frames, shift_f, scale_f))
        return _add_gated(x_BSE, fed, frames, gate_f), *kept


class WanHead(nn.Module):
    """Final norm, per-frame modulation and projection to patches."""

    def __init__(self, dim: int, out_features: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.head = nn.Linear(dim, out_features)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x_BSE: Tensor, time_BFE: Tensor) -> Tensor:
        """Return ``[B, S, out_features]``."""
        shift, scale = (self.modulation + time_BFE.unsqueeze(2)).unsqueeze(3).unbind(2)
        out: Tensor = self.head(_modulate(self.norm(x_BSE), time_BFE.shape[1], shift, scale))
        return out


class CompiledBlock:
    """``WanBlock.forward`` compiled for static shapes without graph breaks; weights are its inputs.

    Where compiling fails, blocks run plain, with one warning.
    """

    def __init__(self) -> None:
        self.compiled = torch.compile(WanBlock.forward, dynamic=False, fullgraph=True)
        self.failed = False

    def __call__(self, block: WanBlock, *args: object) -> BlockOutput:
        """Run a block."""
        if self.failed:
            return block(*args)  # type: ignore[no-any-return]
        try:
            return self.compiled(block, *args)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - dynamo, inductor and the C++ compiler have their own
            plain: BlockOutput = block(*args)  # blames the input, if it is
            self.failed = True
            first = (str(error).splitlines() or [""])[0]
            log.warning("torch.compile failed (%s); blocks run plain", first)
            return plain


@lru_cache(maxsize=1)
def compiled_block() -> CompiledBlock:
    """Return the compiled block of this process: one for all layers and models."""
    return CompiledBlock()


def _modulate(x_BSE: Tensor, frames: int, shift_BF1E: Tensor, scale_BF1E: Tensor) -> Tensor:
    """Scale and shift the tokens of each frame."""
    return torch.addcmul(shift_BF1E, x_BSE.unflatten(1, (frames, -1)), 1 + scale_BF1E).flatten(
        1, 2
    )


def _add_gated(x_BSE: Tensor, more_BSE: Tensor, frames: int, gate_BF1E: Tensor) -> Tensor:
    """Add something to the tokens of each frame, as much as its gate says."""
    framed, more = (part.unflatten(1, (frames, -1)) for part in (x_BSE, more_BSE))
    return torch.addcmul(framed, more, gate_BF1E).flatten(1, 2)


def _join(
    context: tuple[Tensor, Tensor, int, bool] | None, key_BSND: Tensor, value_BSND: Tensor
) -> tuple[Tensor, Tensor]:
    """Put the live keys and values behind the context's: into its room, or in a new tensor."""
    if context is None:
        return key_BSND, value_BSND
    context_key, context_value, tokens, has_room = context
    if not has_room:
        return torch.cat([context_key, key_BSND], 1), torch.cat([context_value, value_BSND], 1)
    end = tokens + key_BSND.shape[1]
    context_key[:, tokens:end].copy_(key_BSND)
    context_value[:, tokens:end].copy_(value_BSND)
    return context_key[:, :end], context_value[:, :end]


def _linear_into(layer: nn.Module, x_BSE: Tensor, out_BSE: Tensor | None) -> Tensor:
    """Return a layer's output; a plain linear layer writes it where it is to be, an adapted one copies it there."""
    if out_BSE is None:
        made: Tensor = layer(x_BSE)
        return made
    if type(layer) is nn.Linear and layer.bias is not None:
        torch.addmm(layer.bias, x_BSE.flatten(0, 1), layer.weight.t(), out=out_BSE.flatten(0, 1))
        return out_BSE
    return out_BSE.copy_(layer(x_BSE))
