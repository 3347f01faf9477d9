"""Weights from any known format into Wan's, diffusers' or Self-Forcing's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor

from lightning_adastate.files import save_tensors, whole_file, whole_folder
from lightning_adastate.weights.files import STEM, WeightFiles
from lightning_adastate.weights.names import LANDMARK, strip, to_diffusers

Format = Literal["wan", "diffusers", "self_forcing"]
DTypeName = Literal["keep", "float32", "bfloat16", "float16"]
Item = TypeVar("Item")

HEAD_DIM = 128
"""Head dimension of every Wan 2.1 model; it cannot be read off the weights."""


def convert(
    source: str,
    target: Path,
    *,
    to: Format,
    part: str | None = None,
    dtype: DTypeName = "keep",
    shard_gb: float = 10.0,
    num_heads: int | None = None,
) -> int:
    """Write the backbone's weights at ``source`` to ``target`` and return how many tensors there are.

    Raises:
        ValueError: If the source holds none, the target exists, or its name does not fit the format.
    """
    if shard_gb <= 0.0:
        raise ValueError(f"`shard_gb` must be positive, got {shard_gb}")
    endings = {"wan": (".safetensors", ""), "diffusers": ("",), "self_forcing": (".pt",)}[to]
    if target.suffix not in endings:
        kinds = " or ".join(ending or "a folder" for ending in endings)
        raise ValueError(f"for {to} the target must be {kinds}, got '{target}'")
    if target.exists():
        raise ValueError(f"'{target}' exists; remove it or write elsewhere")
    files = WeightFiles(source)
    names = _plain_names(files, part)
    rename = to_diffusers if to == "diffusers" else str
    wanted = {rename(name): name for name in sorted(names)}

    def read(name: str) -> Tensor:
        tensor = files[names[wanted[name]]]
        return tensor if dtype == "keep" else tensor.to(getattr(torch, dtype))

    def size(name: str) -> int:
        tensor = files[names[wanted[name]]]
        return (
            tensor.numel() * (tensor.dtype if dtype == "keep" else getattr(torch, dtype)).itemsize
        )

    if to == "self_forcing":
        _write_checkpoint(target, list(wanted), read)
    elif target.suffix:
        tensors = {name: read(name) for name in _tracked(wanted, "reading")}
        save_tensors(target, tensors, {"format": "pt"})
    else:
        shapes = {name: files.shape(original) for name, original in names.items()}
        configs = {"wan": wan_config, "diffusers": diffusers_config}
        heads = files.num_heads if num_heads is None else num_heads
        shards = list(_shards(list(wanted), size, shard_gb * 1e9))
        _write_folder(target, shards, read, configs[to](shapes, heads))
    return len(wanted)


def _plain_names(files: WeightFiles, part: str | None) -> dict[str, str]:
    """Return the names of a copy of the network, if it is a whole one without an adapter."""
    try:
        names = strip(files.names, part)
    except ValueError as error:
        raise ValueError(f"{str(files.path)!r}: {error}") from error
    if any(".lora_" in name for name in names):
        raise ValueError(
            f"{str(files.path)!r} holds an adapter; merge it first: save `backbone.plain_copy()`"
        )
    if LANDMARK not in names:
        raise ValueError(f"{str(files.path)!r} holds no Wan weights: there is no {LANDMARK}")
    return names


def wan_config(shapes: Mapping[str, tuple[int, ...]], num_heads: int | None) -> dict[str, object]:
    """Return Wan's own config.json for weights of these shapes."""
    width, channels = shapes[LANDMARK][:2]
    return {
        "_class_name": "WanModel",
        "model_type": "t2v",
        "dim": width,
        "eps": 1e-06,
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "freq_dim": shapes["time_embedding.0.weight"][1],
        "in_dim": channels,
        "num_heads": _heads(width, num_heads),
        "num_layers": _layers(shapes),
        "out_dim": channels,
        "text_len": 512,
    }


def diffusers_config(
    shapes: Mapping[str, tuple[int, ...]], num_heads: int | None
) -> dict[str, object]:
    """Return diffusers' config.json for weights of these shapes."""
    width, channels = shapes[LANDMARK][:2]
    heads = _heads(width, num_heads)
    return {
        "_class_name": "WanTransformer3DModel",
        "added_kv_proj_dim": None,
        "attention_head_dim": width // heads,
        "cross_attn_norm": True,
        "eps": 1e-06,
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "freq_dim": shapes["time_embedding.0.weight"][1],
        "image_dim": None,
        "in_channels": channels,
        "num_attention_heads": heads,
        "num_layers": _layers(shapes),
        "out_channels": channels,
        "patch_size": list(shapes[LANDMARK][2:]),
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": shapes["text_embedding.0.weight"][1],
    }


def _heads(width: int, num_heads: int | None) -> int:
    if num_heads is None and width % HEAD_DIM:
        raise ValueError(
            f"a width of {width} is no multiple of Wan's head dimension {HEAD_DIM}; give `--num_heads`"
        )
    heads = width // HEAD_DIM if num_heads is None else num_heads
    if heads < 1 or width % heads:
        raise ValueError(f"`num_heads` must divide the width {width}, got {heads}")
    return heads


def _layers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks."))


def _write_checkpoint(target: Path, names: Sequence[str], read: Callable[[str], Tensor]) -> None:
    """Write ``{"generator": {"model.NAME": tensor}}``, as Self-Forcing keeps it."""
    tensors = {f"model.{name}": read(name) for name in _tracked(names, "reading")}
    with whole_file(target) as partial, partial.open("wb") as handle:
        try:
            torch.save({"generator": tensors}, handle)
        except RuntimeError as error:  # torch's complaint about positions hides the system's
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _write_folder(
    target: Path,
    shards: Sequence[Sequence[str]],
    read: Callable[[str], Tensor],
    config: Mapping[str, object],
) -> None:
    """Write shards, their index and config.json beside the target, then rename the folder."""
    with whole_folder(target) as partial:
        where, total = {}, 0
        for index, shard in enumerate(_tracked(shards, "writing"), start=1):
            name = f"{STEM}.safetensors"
            if len(shards) > 1:
                name = f"{STEM}-{index:05d}-of-{len(shards):05d}.safetensors"
            tensors = {each: read(each) for each in shard}
            save_tensors(partial / name, tensors, {"format": "pt"})
            where.update(dict.fromkeys(shard, name))
            total += sum(tensor.nbytes for tensor in tensors.values())
        if len(shards) > 1:
            index_text = json.dumps(
                {"metadata": {"total_size": total}, "weight_map": where}, indent=2
            )
            (partial / f"{STEM}.safetensors.index.json").write_text(index_text + "\n")
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _shards(names: Sequence[str], size: Callable[[str], int], limit: float) -> Iterator[list[str]]:
    """Split names so that each part's tensors stay below ``limit`` bytes, one tensor at least."""
    shard: list[str] = []
    total = 0
    for name in names:
        if shard and total + size(name) > limit:
            yield shard
            shard, total = [], 0
        shard.append(name)
        total += size(name)
    yield shard


def _tracked(items: Iterable[Item], doing: str) -> Iterable[Item]:
    """Show a bar while items pass by; a machine that only streams needs no rich."""
    from rich.progress import track

    shown = list(items)  # a bar needs to know how many
    return track(shown, doing, transient=True)
