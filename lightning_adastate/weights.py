"""Weights of backbones from every format people have: Wan's own, diffusers', Self-Forcing's, ours."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lightning_adastate.backbones.base import Backbone
from lightning_adastate.weight_names import strip

log = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "assets"
"""Small trained checkpoints shipped with the package."""

CONTAINERS = ("generator_ema", "generator", "model", "state_dict")
"""Where a pickled checkpoint keeps its weights, in order of preference."""

STEM = "diffusion_pytorch_model"
"""What Wan and diffusers call their files in a folder."""


class WeightReport(NamedTuple):
    """How weights fit a module: names that are missing, unexpected, or of another shape."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether every tensor is there, with its shape, and no other."""
        return not any(self)

    def __str__(self) -> str:
        """Count the problems and name the first of each kind."""
        pairs = zip(self._fields, self, strict=True)
        return "; ".join(
            f"{len(names)} {what} ({names[0]}, ...)" for what, names in pairs if names
        )


class WeightFiles:
    """Tensors of one or more files, read when they are asked for. Files are mapped, not loaded.

    Args:
        path: A ``.safetensors`` file, a pickled checkpoint (``.pt``, ``.pth``, ``.ckpt``, ``.bin``), a folder of
            Wan's or diffusers' files (also sharded, also under ``transformer/``), or a shipped name.

    Raises:
        ValueError: If there is nothing, or it cannot be read. Nothing in a file is executed.
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
        if file.suffix == ".safetensors":
            handle = safe_open(file, framework="pt")
            names: list[str] = handle.keys()  # type: ignore[no-untyped-call]
            self._where.update(dict.fromkeys(names, handle))
            return
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no checkpoint, or is cut short")
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        for container in CONTAINERS:
            inner = loaded.get(container)
            if isinstance(inner, Mapping):
                loaded = inner
                break
        self._where.update({n: t for n, t in loaded.items() if isinstance(t, Tensor)})

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
        ValueError: If a folder holds none, or lacks a shard that its index names.
    """
    if path.is_file():
        return [path]
    for folder in (path, path / "transformer"):
        index = folder / f"{STEM}.safetensors.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise ValueError(f"{str(index)!r} is no index of shards") from error
            lost = [shard for shard in shards if not (folder / shard).is_file()]
            if lost:
                raise ValueError(f"{str(folder)!r} lacks {lost[0]!r}, which its index names")
            return [folder / shard for shard in shards]
        found = sorted(folder.glob(f"{STEM}*.safetensors")) or sorted(folder.glob("*.safetensors"))
        if found:
            return found
    raise ValueError(
        f"the folder {str(path)!r} holds no weights; expected {STEM}.safetensors, its shards, or a "
        "folder `transformer` with them"
    )


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a backbone's weights under Wan's own names.

    A training checkpoint gives its generator's average where it has one, else the generator.

    Args:
        path: What ``WeightFiles`` takes.

    Raises:
        ValueError: If it is missing, unreadable or holds no weights.
    """
    files = WeightFiles(path)
    names = strip(files.names)
    if not names:
        raise ValueError(f"{str(files.path)!r} holds no backbone weights")
    return {wanted: files[name] for wanted, name in names.items()}


def load_into(module: Backbone, path: str | Path) -> None:
    """Load weights into a backbone, every one of them and nothing else; its own dtype stays.

    Tensors are read and copied one by one, so that memory is needed for one copy of the model.

    Raises:
        ValueError: Naming the file and the first missing, unexpected or misshapen tensors.
    """
    files = WeightFiles(path)
    names = strip(files.names)
    if not names:
        raise ValueError(f"{str(files.path)!r} holds no backbone weights")
    _fill(type(module).__name__, module.weight_slots(names), names, files)


def load_anchor(anchor: nn.Module, path: str | Path) -> None:
    """Load an anchor's own parameters from a training checkpoint, if it has any.

    A file without them (weights of a backbone alone) leaves the anchor as it was built, with a warning.

    Raises:
        ValueError: If the file holds parameters of another anchor.
    """
    if not anchor.state_dict():
        return
    files = WeightFiles(path)
    for prefix in ("generator_ema.anchor.", "generator.anchor."):
        names = {n.removeprefix(prefix): n for n in files.names if n.startswith(prefix)}
        if names:
            _fill(type(anchor).__name__, anchor.state_dict(), names, files)
            return
    log.warning("%s holds no parameters of the anchor; it stays as it was built", path)


def report(
    own: Mapping[str, Tensor], names: Mapping[str, str], files: WeightFiles
) -> WeightReport:
    """Compare tensors with files, reading no tensor.

    Args:
        own: The module's tensors by name; they may be on the meta device.
        names: For each name the name in the files.
        files: The files.
    """
    shapes = {wanted: files.shape(name) for wanted, name in names.items()}
    misshapen = [
        f"{name} is {shapes[name]}, expected {tuple(own[name].shape)}"
        for name in sorted(own.keys() & shapes.keys())
        if tuple(own[name].shape) != shapes[name]
    ]
    return WeightReport(
        tuple(sorted(own.keys() - shapes.keys())),
        tuple(sorted(shapes.keys() - own.keys())),
        tuple(misshapen),
    )


@torch.no_grad()
def _fill(
    what: str, own: Mapping[str, Tensor], names: Mapping[str, str], files: WeightFiles
) -> None:
    """Copy exactly these weights into its own, or say what does not fit."""
    problems = report(own, names, files)
    if not problems.fits:
        raise ValueError(f"weights {str(files.path)!r} do not fit {what}: {problems}")
    for name, tensor in own.items():
        tensor.copy_(files[names[name]])
