"""The blocks of Wan 2.1's transformer: attention, modulation, head."""

# Shapes: B batch, F frames, S tokens (frame-major), N heads, D head dim, E model dim.
# Parameter names are Wan's own.

from __future__ import annotations

import logging
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from lightning_adastate.backbones.attention import AttentionMask, attend
from lightning_adastate.rope import RopeTable, rotate

log = logging.getLogger(__name__)


class RMSNorm(nn.Module):
    """Normalise over the whole model dimension: float32 inside, cast before the weight (as Wan does).

    The weight is cast as well: under autocast queries and keys are then of one dtype with the values.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised input in its own dtype."""
        normed = rms_norm(x.float(), (x.shape[-1],), None, self.eps)
        weighted: Tensor = normed.to(x.dtype) * self.weight.to(x.dtype)
        return weighted


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

    def key_value(self, x_BSE: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised keys and values ``[B, S, N, D]``, not rotated."""
        return self._heads(self.norm_k(self.k(x_BSE))), self._heads(self.v(x_BSE))

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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the tokens after the block, and the raw keys, values and queries ``[B, S, N, D]``."""
        frames = modulation_BF6E.shape[1]
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (
            (self.modulation + modulation_BF6E).unsqueeze(3).unbind(2)
        )

        normed = _modulate(self.norm1(x_BSE), frames, shift_a, scale_a)
        raw_query = self.self_attn.query(normed)
        query = rotate(raw_query, tables[0])
        raw_key, value = self.self_attn.key_value(normed)
        key, values = _join(context, rotate(raw_key, tables[1]), value)
        mixed = self.self_attn.output(query, key, values, mask)
        x_BSE = _add_gated(x_BSE, mixed, frames, gate_a)

        query = self.cross_attn.query(self.norm3(x_BSE))
        x_BSE = x_BSE + self.cross_attn.output(query, *text, None)

        fed = self.ffn(_modulate(self.norm2(x_BSE), frames, shift_f, scale_f))
        return _add_gated(x_BSE, fed, frames, gate_f), raw_key, value, raw_query


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

    def __call__(self, block: WanBlock, *args: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run a block."""
        if self.failed:
            return block(*args)  # type: ignore[no-any-return]
        try:
            return self.compiled(block, *args)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - dynamo, inductor and the C++ compiler have their own
            plain: tuple[Tensor, Tensor, Tensor, Tensor] = block(
                *args
            )  # blames the input, if it is
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
