"""Weights of backbones from every format people have: Wan's own, diffusers', Self-Forcing's, ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_adastate.backbones.base import Backbone
from lightning_adastate.backbones.sharded import is_sharded
from lightning_adastate.weights.files import WeightFiles
from lightning_adastate.weights.names import strip

log = logging.getLogger(__name__)


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


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a backbone's weights under Wan's own names.

    A training checkpoint gives its generator's average where it has one, else the generator.

    Args:
        path: What ``WeightFiles`` takes.

    Raises:
        ValueError: If it is missing, unreadable or holds no weights.
    """
    files, names = _backbone_names(path)
    return {wanted: files[name] for wanted, name in names.items()}


def load_into(module: Backbone, path: str | Path) -> None:
    """Load weights into a backbone, every one of them and nothing else; its own dtype stays.

    Tensors are read and copied one by one, so that memory is needed for one copy of the model.

    Raises:
        ValueError: Naming the file and the first missing, unexpected or misshapen tensors.
    """
    files, names = _backbone_names(path)
    heads = files.num_heads
    if heads not in (None, module.num_heads):
        raise ValueError(
            f"weights {str(files.path)!r} are of {heads} attention heads, expected {module.num_heads}"
        )
    _fill(type(module).__name__, module.weight_slots(names), names, files)


def compare_weights(module: Backbone, path: str | Path) -> WeightReport:
    """Tell how weights fit a backbone, which may be on the meta device. No tensor is read."""
    files, names = _backbone_names(path)
    return report(module.weight_slots(names), names, files)


def _backbone_names(path: str | Path) -> tuple[WeightFiles, dict[str, str]]:
    """Open files, and return for each of the backbone's names the name in them."""
    files = WeightFiles(path)
    try:
        names = strip(files.names)
    except ValueError as error:
        raise ValueError(f"{str(files.path)!r}: {error}") from error
    if not names:
        raise ValueError(f"{str(files.path)!r} holds no backbone weights")
    return files, names


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
    if any(tensor.is_meta for tensor in own.values()):
        raise ValueError(f"{what} is on the meta device; give it memory first, with `to_empty`")
    for name, tensor in own.items():
        values = files[names[name]]
        check_finite(values, name, f"weights {str(files.path)!r} are")
        fill_tensor(tensor, values)


def check_finite(values: Tensor, name: str, source: str) -> None:
    """Refuse weights that are not finite: everything made with them would be black, or NaN.

    Args:
        values: The tensor.
        name: Its name.
        source: Where it is from, with the verb: ``the checkpoint is``.

    Raises:
        ValueError: Naming the tensor.
    """
    if not bool(values.isfinite().all()):
        count = int((~values.isfinite()).sum())
        raise ValueError(
            f"{source} not finite: {count} of {values.numel()} numbers of {name}; the training "
            "that made them has diverged, take an earlier checkpoint"
        )


@torch.no_grad()
def fill_tensor(own: Tensor, values: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded over processes: each takes its part, none sends any."""
    if is_sharded(own):
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(
            values.to(own.device), own.device_mesh, own.placements, src_data_rank=None
        )
    own.copy_(values)
