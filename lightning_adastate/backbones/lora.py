"""LoRA: a frozen backbone and small trainable matrices beside its linear layers (arXiv 2106.09685), through `peft`."""

# Shapes: B batch, F frames, S text tokens, D text width, C channels, H W latent height / width.

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_adastate.backbones.adapters import (
    BASE,
    check_shapes,
    inject,
    is_adapter,
    matching_layers,
    peft_name,
    read_adapter,
)
from lightning_adastate.backbones.base import Backbone
from lightning_adastate.backbones.sharded import is_sharded
from lightning_adastate.types import BackboneOutput, LivePositions, TextKV, TimeEmbedding, Window

CHECKSUM = "base_checksum"
"""What stands for the frozen weights in a checkpoint that leaves them out."""


class LoRABackbone(Backbone):
    """Train a low-rank change of a backbone's linear layers; the backbone itself is frozen.

    As built it computes exactly what the backbone does. Plain weights (``weights``, ``critic_weights``)
    are loaded into the backbone; a checkpoint of this class brings its adapter along.

    Args:
        backbone: The network to adapt.
        rank: Columns of the matrices.
        alpha: The change is scaled by ``alpha / rank``.
        dropout: Share of the adapter's inputs that training drops.
        targets: Regular expressions; linear layers whose whole name matches one are adapted.
        adapter: An adapter of the same rank to start from: a .safetensors file, ours or peft's, or a
            training checkpoint; ``None`` starts from no change.
        checkpoints: ``whole`` checkpoints need no other file; ``adapter`` leaves the frozen weights out,
            and resuming needs the same ``weights`` again.

    Raises:
        ImportError: If `peft` is not installed.
        ValueError: If a number is out of range, a pattern matches no layer, or the file does not fit.
    """

    neutral_arguments = frozenset({"dropout", "adapter", "checkpoints"})

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: int = 16,
        alpha: int = 16,
        dropout: float = 0.0,
        targets: Sequence[str] = (r"blocks\..*",),
        adapter: str | None = None,
        checkpoints: Literal["whole", "adapter"] = "whole",
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"`rank` must be 1 or more, got {rank}")
        if alpha < 1:
            raise ValueError(f"`alpha` must be 1 or more, got {alpha}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"`dropout` must be in [0, 1), got {dropout}")
        if any(is_adapter(name) for name, _ in backbone.named_parameters()):
            raise ValueError("`backbone` has an adapter already; give a plain one")
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.in_channels = backbone.in_channels
        self.num_layers = backbone.num_layers
        self.num_heads = backbone.num_heads
        self.head_dim = backbone.head_dim
        self.text_dim = backbone.text_dim
        self.ends_at_kv = backbone.ends_at_kv
        self.adapted = matching_layers(backbone, targets)
        self.base = inject(backbone, self.adapted, rank=rank, alpha=alpha, dropout=dropout)
        self.requires_grad_()
        if checkpoints == "adapter":
            self.register_state_dict_post_hook(_leave_base_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_bring_base_back)  # type: ignore[no-untyped-call]
        if adapter is not None:
            self.load_adapter(adapter)

    # -- a backbone like any other ----------------------------------------------------------------

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Return the tokens of one latent frame."""
        return self.base.tokens_per_frame(height, width)

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of tokens."""
        return self.base.token_grid(height, width)

    def text_kv(self, text_BSD: Tensor) -> TextKV:
        """Return cross-attention keys and values, which may be adapted too."""
        return self.base.text_kv(text_BSD)

    def embed_time(self, timestep_BF: Tensor) -> TimeEmbedding:
        """Return what timesteps become."""
        return self.base.embed_time(timestep_BF)

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
        out: BackboneOutput = self.base(
            latents_BFCHW,
            timestep_BF=timestep_BF,
            text=text,
            positions=positions,
            window=window,
            mask_FF=mask_FF,
            clean_latents_BFCHW=clean_latents_BFCHW,
            return_kv=return_kv,
            return_query=return_query,
            time=time,
            **({"kv_only": True} if kv_only else {}),
        )
        return out

    def requires_grad_(self, requires_grad: bool = True) -> LoRABackbone:
        """Let the adapter learn, or not. The backbone never does."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(requires_grad and is_adapter(name))
        return self

    def extra_repr(self) -> str:
        """Name the arguments."""
        return f"rank={self.rank}, alpha={self.alpha}, dropout={self.dropout}"

    # -- weights in and out -----------------------------------------------------------------------

    def weight_slots(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return everything for a checkpoint of this class, the backbone under its own names for any other.

        Raises:
            ValueError: If the names are of an adapter alone.
        """
        own = self.base.state_dict()
        if any(is_adapter(name) for name in names):
            if all(is_adapter(name) or name == CHECKSUM for name in names):
                raise ValueError(
                    "the file holds an adapter alone: give it as the backbone's `adapter`, and as "
                    "`weights` those of the network that it was trained on"
                )
            return {BASE + name: tensor for name, tensor in own.items()}
        return {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in own.items()
            if not is_adapter(name)
        }

    def plain_copy(self) -> Backbone:
        """Return a copy of the backbone with the adapter merged into its weights, all trainable."""
        plain: Backbone = copy.deepcopy(self.base)
        for name in self.adapted:
            layer = plain.get_submodule(name)
            layer.merge(safe_merge=True)  # type: ignore[operator]
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, layer.get_base_layer())  # type: ignore[operator]
        for parameter in plain.parameters():
            parameter.requires_grad_()
        return plain

    def adapter_weights(self) -> dict[str, Tensor]:
        """Return the adapter alone, under the names of peft's files."""
        state = self.base.state_dict()
        return {peft_name(name): tensor for name, tensor in state.items() if is_adapter(name)}

    def base_checksum(self) -> Tensor:
        """Return two sums over the frozen weights, by which other weights are noticed.

        Raises:
            ValueError: If the weights are sharded over processes.
        """
        sums = torch.zeros(2, dtype=torch.float64)
        if any(is_sharded(tensor) for tensor in self.base.parameters()):
            raise ValueError(
                "`checkpoints: adapter` cannot be saved while the weights are sharded over processes (FSDP); "
                "use `checkpoints: whole`, or the strategy ddp"
            )
        for name, tensor in self.base.state_dict().items():
            if not is_adapter(name):
                wide = tensor.cpu().double()
                sums += torch.stack([wide.abs().sum(), wide.square().sum()])
        return sums

    @torch.no_grad()
    def load_adapter(self, path: str | Path) -> None:
        """Load what ``adapter_weights`` returned, or peft saved.

        Raises:
            ValueError: If the file is unreadable or of another rank or other layers.
        """
        found = read_adapter(path)
        own = self.adapter_weights()
        check_shapes(own, found, path)
        for name, tensor in own.items():
            tensor.copy_(found[name])


def _leave_base_out(
    module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object
) -> None:
    """Put a checksum in place of the frozen weights."""
    del metadata
    assert isinstance(module, LoRABackbone)
    for name in [n for n in state if n.startswith(prefix + BASE) and not is_adapter(n)]:
        del state[name]
    state[prefix + CHECKSUM] = module.base_checksum()


def _bring_base_back(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Let the frozen weights stay as they are, if they are those the adapter was trained on.

    Raises:
        ValueError: If they are others.
    """
    assert isinstance(module, LoRABackbone)
    expected = state.pop(prefix + CHECKSUM, None)
    if expected is None:
        return
    if not torch.allclose(module.base_checksum(), expected.cpu(), rtol=1e-9, atol=0.0):
        raise ValueError(
            "the checkpoint's adapter was trained on other frozen weights than these; give the same "
            "`weights` (or `critic_weights`) as then"
        )
    for name, tensor in module.base.state_dict().items():
        if not is_adapter(name):
            state[prefix + BASE + name] = tensor
