"""Wan's own file of the text encoder (``models_t5_umt5-xxl-enc-bf16.pth``), brought into transformers' model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_adastate.weights.files import WeightFiles

if TYPE_CHECKING:
    from transformers import UMT5Config, UMT5EncoderModel

FILE = "models_t5_umt5-xxl-enc-bf16.pth"
WORDS = "google/umt5-xxl"
"""Where weights and tokenizer lie in Wan's folders."""

NAMES = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.block.\1.layer.0.SelfAttention."),
    (
        r"^blocks\.(\d+)\.pos_embedding\.embedding\.",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)
"""Wan's names (wan/modules/t5.py, Apache-2.0) and transformers'."""


def native_folders(root: Path) -> tuple[Path, Path] | None:
    """Return Wan's own file and its tokenizer's folder, if ``root`` has the file."""
    return (root / FILE, root / WORDS) if (root / FILE).is_file() else None


def load_native(file: Path, dtype: torch.dtype) -> UMT5EncoderModel:
    """Return the encoder of Wan's own file. Sizes are read from the weights, the rest is UMT5-XXL's.

    Raises:
        ValueError: If the file cannot be read, or holds something else.
    """
    from transformers import UMT5EncoderModel

    files = WeightFiles(file)
    weights = {_rename(name): files[name].to(dtype) for name in files.names}
    try:
        with torch.device("meta"):
            model = UMT5EncoderModel(config_of(weights))
        weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
        model.load_state_dict(weights, assign=True)
    except KeyError as error:
        raise ValueError(f"{str(file)!r} is no file of Wan's UMT5: it lacks {error}") from error
    except RuntimeError as error:
        found = str(error).splitlines()
        line = (found[1:] or found)[0].strip()
        raise ValueError(f"{str(file)!r} is no file of Wan's UMT5: {line}") from error
    return model


def config_of(weights: Mapping[str, Tensor]) -> UMT5Config:
    """Return the configuration that the weights' shapes tell; they have transformers' names."""
    from transformers import UMT5Config

    words, width = weights["shared.weight"].shape
    first = "encoder.block.0.layer."
    buckets, heads = weights[f"{first}0.SelfAttention.relative_attention_bias.weight"].shape
    return UMT5Config(
        vocab_size=words,
        d_model=width,
        d_kv=len(weights[f"{first}0.SelfAttention.q.weight"]) // heads,
        d_ff=len(weights[f"{first}1.DenseReluDense.wi_0.weight"]),
        num_layers=sum(name.endswith("SelfAttention.q.weight") for name in weights),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
    )


def _rename(name: str) -> str:
    for ours, theirs in NAMES:
        name = re.sub(ours, theirs, name)
    return name
