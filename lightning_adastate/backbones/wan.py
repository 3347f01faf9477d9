"""Wan 2.1's transformer at any size: teacher, critic and generator are this one class."""

# Shapes: L layers, B batch, F frames, S tokens (frame-major), T tokens per frame, N heads, D head dim,
#         E model dim, C channels, H W latent height / width. Parameter names are Wan's own.

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_adastate.backbones.attention import AttentionBackend, attention_mask, kernels_of
from lightning_adastate.backbones.base import Backbone
from lightning_adastate.backbones.wan_block import Keeps, WanBlock, WanHead, compiled_block
from lightning_adastate.rope import rope_table, split_pairs
from lightning_adastate.types import (
    KV,
    BackboneOutput,
    LivePositions,
    TextKV,
    TimeEmbedding,
    Window,
)

Layers = Tensor | list[Tensor]
MAX_PERIOD = 10000.0
"""Longest period of the sinusoidal timestep embedding."""


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
        attention: ``sdpa`` is PyTorch's own; ``cudnn``, ``flash`` and ``flash3`` insist on that kernel and
            need CUDA and half precision; ``auto`` takes what is fastest on the card that is there; ``flex`` skips what
            a frame mask hides (parallel training) and is ``sdpa`` elsewhere.
        checkpoint_activations: Recompute each block in the backward pass to save memory.
        compile_blocks: ``steady`` compiles a block with torch.compile and uses it once the window of a
            stream is full; training and the first chunks run plain. ``auto`` leaves it to ``generation.speed``.
        cuda_graphs: ``steady`` records the passes of a stream as CUDA graphs once its window is full, and
            replays them; where that cannot be done they run plain, with a warning. ``auto`` leaves it to
            ``generation.speed``.

    Raises:
        ValueError: If sizes do not divide, or the attention backend is not available.
    """

    ends_at_kv = True
    neutral_arguments = frozenset(
        {"attention", "checkpoint_activations", "compile_blocks", "cuda_graphs"}
    )

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
        compile_blocks: Literal["auto", "never", "steady"] = "never",
        cuda_graphs: Literal["auto", "never", "steady"] = "never",
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"`dim` {dim} must be a multiple of `num_heads` {num_heads}")
        if patch_size[0] != 1:
            raise ValueError(f"`patch_size` must hold one latent frame, got {patch_size}")
        split_pairs(dim // num_heads)
        kernels = kernels_of(attention)
        self.in_channels = in_channels
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.text_dim = text_dim
        self.text_tokens = text_tokens
        self.freq_dim = freq_dim
        self.patch_size = patch_size
        self.kernels = kernels
        self.checkpoint_activations = checkpoint_activations
        self.compile_blocks = compile_blocks
        self.cuda_graphs = cuda_graphs
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
            WanBlock(dim, ffn_dim, num_heads, eps, kernels) for _ in range(num_layers)
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

    def use_kernels(self, names: tuple[str, ...]) -> None:
        """Attend with the first of these kernels that applies."""
        self.kernels = names
        for block in self._blocks():
            block.self_attn.kernels = block.cross_attn.kernels = names

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
        time: TimeEmbedding | None = None,
        kv_only: bool = False,
    ) -> BackboneOutput:
        """Predict velocity; see ``Backbone.forward``."""
        frames = latents_BFCHW.shape[1]
        grid = self.token_grid(*latents_BFCHW.shape[-2:])
        if positions is None:
            positions = LivePositions(tuple(range(frames)), tuple(range(frames)))
        if clean_latents_BFCHW is not None:
            latents_BFCHW = torch.cat([clean_latents_BFCHW, latents_BFCHW], dim=1)
            timestep_BF = torch.cat([torch.zeros_like(timestep_BF), timestep_BF], dim=1)
            time = None
            positions = LivePositions(positions.query * 2, positions.key * 2)
        tables = tuple(
            rope_table(tuple(float(p) for p in part), *grid, self.head_dim, latents_BFCHW.device)
            for part in positions
        )
        mask = None
        if mask_FF is not None:
            mask = attention_mask(mask_FF, grid[0] * grid[1], latents_BFCHW.device, self.kernels)
        x_BSE = self._patchify(latents_BFCHW)
        time_BFE, modulation = (self.embed_time(timestep_BF) if time is None else time).parts
        steady = window is not None and window.is_steady
        compiled = compiled_block() if steady and self.compile_blocks == "steady" else None
        room = self._room(x_BSE) if return_kv else None
        keys, values, queries = [], [], []
        for layer, block in enumerate(self._blocks()):
            layer_text = (text.key_LBSND[layer], text.value_LBSND[layer])
            ends = kv_only and layer + 1 == self.num_layers
            here = None if room is None else (room[0][layer], room[1][layer])
            keeps = Keeps(return_kv, return_query, ends, here)
            args = (x_BSE, modulation, tables, layer_text, _layer(window, layer), mask, keeps)
            if self.checkpoint_activations and torch.is_grad_enabled():
                x_BSE, key, value, query = checkpoint(block, *args, use_reentrant=False)
            elif compiled is not None and not ends:
                x_BSE, key, value, query = compiled(block, *args)
            else:
                x_BSE, key, value, query = block(*args)
            keys.append(key)
            values.append(value)
            queries.append(query)
        total = latents_BFCHW.shape[1]
        kv = _kv(room or (keys, values), total) if return_kv else None
        query = _frames_of(queries, total) if return_query else None
        if kv_only:
            return BackboneOutput(latents_BFCHW[:, :0], kv, query)
        if clean_latents_BFCHW is not None:
            x_BSE, time_BFE = x_BSE[:, -x_BSE.shape[1] // 2 :], time_BFE[:, frames:]
        velocity = self._unpatchify(self.head(x_BSE, time_BFE), frames, grid)
        return BackboneOutput(velocity, kv, query)

    def _room(self, x_BSE: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return memory for all layers' keys and values; ``None`` under autograd, which keeps them, or autocast."""
        device = "cpu" if x_BSE.is_meta else x_BSE.device.type  # a rehearsal is the CPU's
        if torch.is_grad_enabled() or torch.is_autocast_enabled(device):
            return None
        shape = (self.num_layers, *x_BSE.shape[:2], self.num_heads, self.head_dim)
        return x_BSE.new_empty(shape), x_BSE.new_empty(shape)

    def _blocks(self) -> Sequence[WanBlock]:
        return self.blocks  # type: ignore[return-value]

    def _patchify(self, latents_BFCHW: Tensor) -> Tensor:
        video = rearrange(latents_BFCHW, "b f c h w -> b c f h w").to(self.patch_embedding.weight)
        tokens: Tensor = rearrange(self.patch_embedding(video), "b e f h w -> (b f h w) e")
        # In the blocks' own layout, strides of a batch of one included: the first layer needs no graph of its own.
        return tokens.contiguous().view(len(latents_BFCHW), -1, tokens.shape[1])

    def _unpatchify(self, patches_BSO: Tensor, frames: int, grid: tuple[int, int]) -> Tensor:
        return rearrange(
            patches_BSO,
            "b (f h w) (ph pw c) -> b f c (h ph) (w pw)",
            f=frames,
            h=grid[0],
            ph=self.patch_size[1],
            pw=self.patch_size[2],
        )

    def embed_time(self, timestep_BF: Tensor) -> TimeEmbedding:
        """Return the time embedding ``[B, F, E]`` and the modulation of all blocks ``[B, F, 6, E]``."""
        dtype = self.patch_embedding.weight.dtype
        half = self.freq_dim // 2
        exponent = torch.arange(half, dtype=torch.float64, device=timestep_BF.device) / half
        angle = timestep_BF.double().unsqueeze(-1) * MAX_PERIOD**-exponent
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype)
        time_BFE = self.time_embedding(waves)
        return TimeEmbedding((time_BFE, self.time_projection(time_BFE).unflatten(-1, (6, -1))))

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


def _kv(layers: tuple[Layers, Layers], frames: int) -> KV:
    """Part the layers' keys and values by frame, ``[L, B, F, T, N, D]``; frame_indices are set by the caller."""
    key, value = layers
    return KV(_frames_of(key, frames), _frames_of(value, frames), tuple(range(frames)))


def _frames_of(layers: Layers, frames: int) -> Tensor:
    """Stack the tokens ``[B, S, N, D]`` of all layers and part them by frame, ``[L, B, F, T, N, D]``."""
    return rearrange(layers, "l b (f t) n d -> l b f t n d", f=frames)
