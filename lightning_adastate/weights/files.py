"""Files of weights: found, opened without running what is in them, read tensor by tensor."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

ASSETS = Path(__file__).parent.parent / "assets"
"""Small trained checkpoints shipped with the package."""

STEM = "diffusion_pytorch_model"
"""What Wan and diffusers call their files in a folder."""


class WeightFiles:
    """Tensors of one or more files, read when they are asked for. Files are mapped, not loaded.

    Args:
        path: A ``.safetensors`` file, a pickled checkpoint (``.pt``, ``.pth``, ``.ckpt``, ``.bin``), a folder of
            Wan's or diffusers' files (also sharded, also under ``transformer/``), or a shipped name.

    Raises:
        ValueError: If there is nothing, it cannot be read, or two files hold the same name. Nothing in
            a file is executed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = find_weights(path)
        self._where: dict[str, object] = {}
        for file in weight_files(self.path):
            try:
                self._open(file)
            except Exception as error:  # pickle, zip and safetensors each raise their own
                first = (str(error).splitlines() or [type(error).__name__])[0]
                raise ValueError(f"cannot read weights from {str(file)!r}: {first}") from error

    def _open(self, file: Path) -> None:
        found: dict[str, object]
        if file.suffix == ".safetensors":
            handle = safe_open(file, framework="pt")
            names: list[str] = handle.keys()  # type: ignore[no-untyped-call]
            found = dict.fromkeys(names, handle)
        else:
            found = dict(_unpickle(file))
        twice = sorted(self._where.keys() & found.keys())
        if twice:
            raise ValueError(f"another file of the folder also holds {twice[0]!r}")
        self._where.update(found)

    @property
    def names(self) -> tuple[str, ...]:
        """List the tensors' names as they are in the files."""
        return tuple(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        where = self._where[name]
        if isinstance(where, Tensor):
            return tuple(where.shape)
        return tuple(where.get_slice(name).get_shape())  # type: ignore[attr-defined]

    def __getitem__(self, name: str) -> Tensor:
        """Read a tensor."""
        where = self._where[name]
        if isinstance(where, Tensor):
            return where
        return where.get_tensor(name)  # type: ignore[attr-defined, no-any-return]

    @property
    def num_heads(self) -> int | None:
        """Return the attention heads that config.json names; no weight's shape tells them."""
        for folder in (self.path, self.path / "transformer"):
            file = folder / "config.json"
            if file.is_file():
                try:
                    config = json.loads(file.read_text())
                    heads = config.get("num_heads", config.get("num_attention_heads"))
                except (ValueError, AttributeError) as error:
                    raise ValueError(f"{str(file)!r} is no configuration") from error
                if heads is not None:
                    return int(heads)
        return None


def _unpickle(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield a pickled checkpoint's tensors; names of what is nested are joined by dots."""
    with file.open("rb") as handle:
        start = handle.read(2)
    zipped = zipfile.is_zipfile(file)
    # torch.save wrote bare pickles before it wrote zip files; those cannot be mapped.
    if not zipped and start != b"\x80\x02":
        raise ValueError("it is no checkpoint, or is cut short")
    loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise TypeError(f"expected tensors by name, got a {type(loaded).__name__}")
    yield from _tensors(loaded, "")


def _tensors(nested: Mapping[object, object], front: str) -> Iterator[tuple[str, Tensor]]:
    for name, inside in nested.items():
        if isinstance(inside, Tensor):
            yield f"{front}{name}", inside
        elif isinstance(inside, Mapping):
            yield from _tensors(inside, f"{front}{name}.")


def find_weights(path: str | Path) -> Path:
    """Return ``path`` if it exists, else the shipped file of that name (``toy/teacher.safetensors``).

    Raises:
        ValueError: If there is neither.
    """
    if Path(path).exists():
        return Path(path)
    if (ASSETS / path).is_file():
        return ASSETS / path
    shipped = ", ".join(sorted(str(p.relative_to(ASSETS)) for p in ASSETS.rglob("*.safetensors")))
    raise ValueError(f"there is no weights file {str(path)!r}; shipped are: {shipped or 'none'}")


def weight_files(path: Path) -> list[Path]:
    """Return the files that hold the weights at ``path``.

    Raises:
        ValueError: If a folder holds none, is a sharded checkpoint of training, or lacks a shard that its index names.
    """
    if path.is_file():
        return [path]
    if (path / ".metadata").is_file():
        raise ValueError(
            f"{str(path)!r} is a checkpoint spread over files; make it one: `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} {path.stem}.pt`"
        )
    for folder in (path, path / "transformer"):
        index = folder / f"{STEM}.safetensors.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise ValueError(f"{str(index)!r} is no index of shards") from error
            return _all_there(folder, shards)
        if (folder / f"{STEM}.safetensors").is_file():
            return [folder / f"{STEM}.safetensors"]
        shards_found = sorted(folder.glob(f"{STEM}-*-of-*.safetensors"))
        if shards_found:
            count = int(shards_found[-1].stem.rpartition("-")[2])
            names = [f"{STEM}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
            return _all_there(folder, names)
        others = sorted(folder.glob("*.safetensors"))
        if others:
            return others
    raise ValueError(
        f"the folder {str(path)!r} holds no weights; expected {STEM}.safetensors, its shards, or a "
        "folder `transformer` with them"
    )


def _all_there(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return these files of a folder, if it has them all."""
    lost = [name for name in names if not (folder / name).is_file()]
    if lost:
        raise ValueError(f"{str(folder)!r} lacks {lost[0]!r} of its {len(names)} files of weights")
    return [folder / name for name in names]
