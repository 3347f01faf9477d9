"""Adapters of linear layers: put in through `peft`, found by name, read from files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_adastate.backbones.base import Backbone

ADAPTER = "default"
"""What peft calls the one adapter in a layer."""

BASE = "base."
"""Where the frozen network is in ``LoRABackbone``."""

PEFT_PREFIX = "base_model.model."
"""What peft puts in front of a network's own names in its files."""

OWNERS = ("generator_ema.backbone.", "generator.backbone.")
"""Whose adapter a training checkpoint is read for, in order of preference."""


def is_adapter(name: str) -> bool:
    """Tell a parameter of an adapter from one of the network it adapts."""
    return ".lora_" in name


def matching_layers(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the names of all linear layers that match a pattern, in the network's order.

    Raises:
        ValueError: If a pattern matches none.
    """
    layers = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in layers):
            raise ValueError(
                f"`targets` {pattern!r} matches no linear layer; names are like "
                f"{', '.join(layers[:: max(1, len(layers) // 4)])}"
            )
    found = [n for n in layers if any(re.fullmatch(pattern, n) for pattern in patterns)]
    if not found:
        raise ValueError("`targets` is empty; there would be nothing to train")
    return found


def inject(
    network: Backbone, layers: Sequence[str], *, rank: int, alpha: int, dropout: float
) -> Backbone:
    """Put an adapter beside each of the layers, in place; return the network.

    Raises:
        ImportError: If `peft` is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(
            "LoRABackbone needs peft; pip install 'lightning-adastate[lora]'"
        ) from error
    # A pattern of whole names: a list would also match layers whose names end alike.
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="|".join(map(re.escape, layers)),
    )
    inject_adapter_in_model(config, network, ADAPTER)
    return network


def check_shapes(own: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse an adapter of other layers or another rank.

    Raises:
        ValueError: Naming the first tensor that does not fit.
    """
    for problem, names in (
        ("lacks", own.keys() - found.keys()),
        ("also has", found.keys() - own.keys()),
        (
            "has another shape (rank) of",
            {name for name in own.keys() & found.keys() if own[name].shape != found[name].shape},
        ),
    ):
        if names:
            raise ValueError(f"the adapter {str(path)!r} does not fit: it {problem} {min(names)}")


def peft_name(name: str) -> str:
    """Return what peft's files call an adapter's parameter of ``LoRABackbone``."""
    return PEFT_PREFIX + name.removeprefix(BASE).replace(f".{ADAPTER}.", ".")


def read_adapter(path: str | Path) -> dict[str, Tensor]:
    """Read an adapter under peft's names, from a file of its own or a training checkpoint.

    Raises:
        ValueError: If the file is unreadable or holds no adapter.
    """
    try:
        if Path(path).suffix != ".ckpt":
            return load_file(path)
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except Exception as error:  # pickle, zip and safetensors each raise their own
        line = str(error).partition("\n")[0]
        raise ValueError(f"cannot read an adapter from {str(path)!r}: {line}") from error
    for owner in OWNERS:
        chosen = {
            peft_name(name.removeprefix(owner)): tensor
            for name, tensor in saved.items()
            if name.startswith(owner) and is_adapter(name)
        }
        if chosen:
            return chosen
    raise ValueError(f"the checkpoint {str(path)!r} holds no adapter of a generator")
