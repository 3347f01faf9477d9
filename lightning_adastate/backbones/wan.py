"""Wan 2.1's transformer at any size: teacher, critic and generator are this one class."""

# Shapes: L layers, B batch, F frames, S tokens (frame-major), T tokens per frame, N heads, D head dim,
#         E model dim, C channels, H W latent height / width. Parameter names are Wan's own.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_adastate.backbones.attention import AttentionBackend, attend, check_backend
from lightning_adastate.backbones.base import Backbone
from lightning_adastate.backbones.masks import token_mask
from lightning_adastate.rope import RopeTable, rope_table, rotate, split_pairs
from lightning_adastate.types import KV, BackboneOutput, LivePositions, TextKV, Window

MAX_PERIOD = 10000.0
"""Longest period of the sinusoidal timestep embedding."""


class RMSNorm(nn.Module):
    """Normalise over the whole model dimension: float32 inside, cast before the weight (as Wan does)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised input in its own dtype."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)
        normed: Tensor = (wide * scale).to(x.dtype) * self.weight
        return normed


class WanAttention(nn.Module):
    """Hold the projections and qk-norms of one attention, self or cross."""

    def __init__(self, dim: int, num_heads: int, eps: float, backend: AttentionBackend) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend: AttentionBackend = backend
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

    def output(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attend and project, ``[B, S, E]``."""
        mixed = attend(query, key, value, mask_SK=mask, backend=self.backend)
        out: Tensor = self.o(mixed.flatten(2))
        return out

    def _heads(self, x_BSE: Tensor) -> Tensor:
        heads: Tensor = x_BSE.unflatten(-1, (self.num_heads, -1))
        return heads


class WanBlock(nn.Module):
    """One transformer block with per-frame modulation."""

    def __init__(
        self, dim: int, ffn_dim: int, num_heads: int, eps: float, backend: AttentionBackend
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.self_attn = WanAttention(dim, num_heads, eps, backend)
        self.norm3 = nn.LayerNorm(dim, eps)
        self.cross_attn = WanAttention(dim, num_heads, eps, backend)
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
        mask_SK: Tensor | None,
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
        mixed = self.self_attn.output(query, key, values, mask_SK)
        x_BSE = x_BSE + _gate(mixed, frames, gate_a)

        query = self.cross_attn.query(self.norm3(x_BSE))
        x_BSE = x_BSE + self.cross_attn.output(query, *text, None)

        fed = self.ffn(_modulate(self.norm2(x_BSE), frames, shift_f, scale_f))
        return x_BSE + _gate(fed, frames, gate_f), raw_key, value, raw_query


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


class WanTransformer(Backbone):
    """Wan 2.1's text-to-video transformer (arXiv 2503.20314), from tiny to 14B.

    One class runs bidirectionally (teacher, critic), in parallel under a frame mask (causal training),
    and against a read-only window (streaming). Keys leave it un-rotated.

    Args:
        dim: Model dimension.
        ffn_dim: Hidden dimension of the feed-forward layers.
        num_heads: Attention heads.
        num_layers: Transformer blocks.
        in_channels: Latent channels in and out.
        patch_size: Latent frames, rows and columns per token; frames must be 1.
        freq_dim: Width of the sinusoidal timestep embedding.
        text_dim: Width of the text embeddings.
        text_tokens: Text is zero-padded to this many tokens, and the padding is attended to.
        eps: Epsilon of all norms.
        attention: ``sdpa`` is PyTorch's own; ``flash`` insists on FlashAttention; ``auto`` takes it
            where it applies.
        checkpoint_activations: Recompute each block in the backward pass to save memory.

    Raises:
        ValueError: If sizes do not divide, or the attention asked for is not available.
    """

    def __init__(
        self,
        dim: int = 1536,
        *,
        ffn_dim: int = 8960,
        num_heads: int = 12,
        num_layers: int = 30,
        in_channels: int = 16,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        freq_dim: int = 256,
        text_dim: int = 4096,
        text_tokens: int = 512,
        eps: float = 1e-6,
        attention: AttentionBackend = "sdpa",
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"`dim` {dim} must be a multiple of `num_heads` {num_heads}")
        if patch_size[0] != 1:
            raise ValueError(f"`patch_size` must hold one latent frame, got {patch_size}")
        split_pairs(dim // num_heads)
        check_backend(attention)
        self.in_channels = in_channels
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.text_dim = text_dim
        self.text_tokens = text_tokens
        self.freq_dim = freq_dim
        self.patch_size = patch_size
        self.checkpoint_activations = checkpoint_activations
        patch = self.patch_size[1] * self.patch_size[2]
        self.patch_embedding = nn.Conv3d(in_channels, dim, self.patch_size, self.patch_size)
        self.text_embedding = nn.Sequential(
            nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(
            WanBlock(dim, ffn_dim, num_heads, eps, attention) for _ in range(num_layers)
        )
        self.head = WanHead(dim, patch * in_channels, eps)
        self._initialise()

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Return the tokens of one latent frame."""
        rows, columns = self.token_grid(height, width)
        return rows * columns

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of tokens.

        Raises:
            ValueError: If the latent size is no multiple of the patch size.
        """
        _, patch_h, patch_w = self.patch_size
        if height % patch_h or width % patch_w:
            raise ValueError(
                f"latent height and width must be multiples of {(patch_h, patch_w)}, "
                f"got {(height, width)}"
            )
        return height // patch_h, width // patch_w

    def text_kv(self, text_BSD: Tensor) -> TextKV:
        """Embed the text and project it to every layer's keys and values.

        Raises:
            ValueError: If it has more tokens than ``text_tokens`` or another width.
        """
        tokens, width = text_BSD.shape[1:]
        if tokens > self.text_tokens or width != self.text_dim:
            raise ValueError(
                f"expected text embeddings of up to {self.text_tokens} x {self.text_dim}, "
                f"got {tokens} x {width}"
            )
        dtype = self.patch_embedding.weight.dtype
        padded = functional.pad(text_BSD.to(dtype), (0, 0, 0, self.text_tokens - tokens))
        embedded = self.text_embedding(padded)
        pairs = [block.cross_attn.key_value(embedded) for block in self._blocks()]
        return TextKV(tuple(key for key, _ in pairs), tuple(value for _, value in pairs))

    def forward(
        self,
        latents_BFCHW: Tensor,
        *,
        timestep_BF: Tensor,
        text: TextKV,
        positions: LivePositions | None = None,
        window: Window | None = None,
        mask_FF: Tensor | None = None,
        clean_latents_BFCHW: Tensor | None = None,
        return_kv: bool = False,
        return_query: bool = False,
    ) -> BackboneOutput:
        """Predict velocity; see ``Backbone.forward``."""
        frames = latents_BFCHW.shape[1]
        grid = self.token_grid(*latents_BFCHW.shape[-2:])
        if positions is None:
            positions = LivePositions(tuple(range(frames)), tuple(range(frames)))
        if clean_latents_BFCHW is not None:
            latents_BFCHW = torch.cat([clean_latents_BFCHW, latents_BFCHW], dim=1)
            timestep_BF = torch.cat([torch.zeros_like(timestep_BF), timestep_BF], dim=1)
            positions = LivePositions(positions.query * 2, positions.key * 2)
        tables = tuple(
            rope_table(tuple(float(p) for p in part), *grid, self.head_dim, latents_BFCHW.device)
            for part in positions
        )
        mask_SK = None
        if mask_FF is not None:
            mask_SK = token_mask(mask_FF.to(latents_BFCHW.device), grid[0] * grid[1])
        x_BSE = self._patchify(latents_BFCHW)
        time_BFE, modulation = self._embed_time(timestep_BF, x_BSE.dtype)
        keys, values, queries = [], [], []
        for layer, block in enumerate(self._blocks()):
            layer_text = (text.key_LBSND[layer], text.value_LBSND[layer])
            args = (x_BSE, modulation, tables, layer_text, _layer(window, layer), mask_SK)
            if self.checkpoint_activations and torch.is_grad_enabled():
                x_BSE, key, value, query = checkpoint(block, *args, use_reentrant=False)
            else:
                x_BSE, key, value, query = block(*args)
            if return_kv:
                keys.append(key)
                values.append(value)
            if return_query:
                queries.append(query)
        if clean_latents_BFCHW is not None:
            x_BSE, time_BFE = x_BSE[:, -x_BSE.shape[1] // 2 :], time_BFE[:, frames:]
        velocity = self._unpatchify(self.head(x_BSE, time_BFE), frames, grid)
        total = latents_BFCHW.shape[1]
        kv = _stack(keys, values, total) if return_kv else None
        asked = torch.stack(queries).unflatten(2, (total, -1)) if return_query else None
        return BackboneOutput(velocity, kv, asked)

    def _blocks(self) -> Sequence[WanBlock]:
        return self.blocks  # type: ignore[return-value]

    def _patchify(self, latents_BFCHW: Tensor) -> Tensor:
        dtype = self.patch_embedding.weight.dtype
        tokens: Tensor = self.patch_embedding(latents_BFCHW.transpose(1, 2).to(dtype))
        return tokens.flatten(2).transpose(1, 2)

    def _unpatchify(self, patches_BSO: Tensor, frames: int, grid: tuple[int, int]) -> Tensor:
        _, patch_h, patch_w = self.patch_size
        x: Tensor = patches_BSO.unflatten(1, (frames, *grid))
        x = x.unflatten(-1, (patch_h, patch_w, -1))
        return x.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _embed_time(self, timestep_BF: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        half = self.freq_dim // 2
        exponent = torch.arange(half, dtype=torch.float64, device=timestep_BF.device) / half
        angle = timestep_BF.double().unsqueeze(-1) * MAX_PERIOD**-exponent
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype)
        time_BFE = self.time_embedding(waves)
        return time_BFE, self.time_projection(time_BFE).unflatten(-1, (6, -1))

    def _initialise(self) -> None:
        """Initialise as Wan does: Xavier for linear layers, small embeddings, a zero head."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for embedding in (self.text_embedding, self.time_embedding):
            for layer in embedding:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)


def _modulate(x_BSE: Tensor, frames: int, shift_BF1E: Tensor, scale_BF1E: Tensor) -> Tensor:
    """Scale and shift the tokens of each frame."""
    return torch.addcmul(shift_BF1E, x_BSE.unflatten(1, (frames, -1)), 1 + scale_BF1E).flatten(
        1, 2
    )


def _gate(x_BSE: Tensor, frames: int, gate_BF1E: Tensor) -> Tensor:
    """Multiply the tokens of each frame."""
    framed: Tensor = x_BSE.unflatten(1, (frames, -1))
    return (framed * gate_BF1E).flatten(1, 2)


def _layer(window: Window | None, layer: int) -> tuple[Tensor, Tensor, int, bool] | None:
    """Return one layer's context keys and values, their token count, and whether there is room."""
    if window is None:
        return None
    return (
        window.key_LBSND[layer],
        window.value_LBSND[layer],
        window.num_tokens,
        window.has_room,
    )


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


def _stack(keys: list[Tensor], values: list[Tensor], frames: int) -> KV:
    """Collect the layers' keys and values, ``[L, B, F, T, N, D]``; births are set by the caller."""
    return KV(
        torch.stack(keys).unflatten(2, (frames, -1)),
        torch.stack(values).unflatten(2, (frames, -1)),
        tuple(range(frames)),
    )
