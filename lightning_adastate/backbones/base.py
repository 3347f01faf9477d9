"""The contract of a backbone: noisy live frames and a read-only window in, velocity out."""

# Shapes: L layers, B batch, F frames, S text tokens, C channels, H W latent height / width.

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Literal

from torch import Tensor, nn

from lightning_adastate.components import Component
from lightning_adastate.types import BackboneOutput, LivePositions, TextKV, TimeEmbedding, Window


class Backbone(nn.Module, Component, ABC):
    """Predict velocity. A backbone never writes a cache and holds no stream state.

    ``cuda_graphs: steady`` lets a stream record its passes once the window is full; ``compile_blocks: steady``
    compiles what it repeats. ``auto`` leaves it to whoever streams (``SpeedPlan``), and is ``never`` until then. ``ends_at_kv`` says
    that ``forward`` takes ``kv_only``, which spares a clean pass what nobody reads.
    """

    in_channels: int
    num_layers: int
    num_heads: int
    head_dim: int
    text_dim: int
    cuda_graphs: Literal["auto", "never", "steady"] = "never"
    compile_blocks: Literal["auto", "never", "steady"] = "never"
    ends_at_kv: bool = False

    @abstractmethod
    def tokens_per_frame(self, height: int, width: int) -> int:
        """Return the tokens of one latent frame of ``height x width``."""

    @abstractmethod
    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of tokens of one latent frame."""

    @abstractmethod
    def text_kv(self, text_BSD: Tensor) -> TextKV:
        """Return cross-attention keys and values of raw text embeddings ``[B, S, D]``, once per prompt."""

    @abstractmethod
    def embed_time(self, timestep_BF: Tensor) -> TimeEmbedding:
        """Return what timesteps ``[B or 1, F]`` become, once per kind of pass of a stream."""

    @abstractmethod
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
        """Predict velocity for every frame.

        Args:
            latents_BFCHW: Noisy frames ``[B, F, C, H, W]``.
            timestep_BF: Timestep in [0, 1000] of every frame, ``[B, F]``.
            text: Keys and values of the prompts.
            positions: Temporal indices of the frames; ``None`` is 0, 1, 2, ...
            window: Context to attend to (streaming), or ``None``.
            mask_FF: Frame-level mask of the parallel forward, boolean; ``None`` is bidirectional.
            clean_latents_BFCHW: Clean frames put before the noisy ones (teacher forcing), at
                timestep 0 and the same positions; ``mask_FF`` then covers both halves.
            return_kv: Also return the frames' raw keys and values of all layers.
            return_query: Also return their raw queries, for anchors that select by attention.
            time: What ``embed_time`` made of ``timestep_BF``; ``None`` makes it here.
            kv_only: End at the last layer's keys and values, and predict the velocity of no frames. Only for
                backbones that ``ends_at_kv``.
        """

    def use_kernels(self, names: tuple[str, ...]) -> None:
        """Attend with the first of these kernels that applies, where there is a choice."""
        del names

    def weight_slots(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return the tensors that a file of weights fills, by their names there, sharing memory.

        A backbone that wraps another returns that one's, under its own names.

        Args:
            names: The names in the file.
        """
        del names
        return self.state_dict()

    def plain_copy(self) -> Backbone:
        """Return a copy with plain weights: what an adapter does is merged in."""
        return copy.deepcopy(self)
