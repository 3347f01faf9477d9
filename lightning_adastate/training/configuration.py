"""The configuration in a checkpoint: plain text, from which the module is built anew."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_adastate.training.checkpoint_weights import check_replaced, without_lost_file

CONFIG_KEY = "config"
"""Where the configuration stands in a checkpoint."""

STAGE_KEY = "stage"
"""Where the name of the training stage's class stands in a checkpoint."""

Module = TypeVar("Module", bound=LightningModule)


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, object]:
    """Read a checkpoint without running what is in it.

    Raises:
        ValueError: If it is missing or unreadable.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint {str(path)!r}")
    found = unpickle(path, device)
    if isinstance(found, dict) and "state_dict" in found:
        return found
    raise ValueError(f"{str(path)!r} is no checkpoint of training")


def unpickle(
    path: str | Path, device: torch.device | str = "cpu", *, mmap: bool = False
) -> object:
    """Read a pickled file without running what is in it.

    Raises:
        ValueError: If it is unreadable.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except Exception as error:  # pickle, zip and torch each raise their own
        line = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(f"cannot read the checkpoint {str(path)!r}: {line}") from error


def config_text(checkpoint: Mapping[str, object], path: str | Path) -> str:
    """Return the configuration that a checkpoint was made with.

    Raises:
        ValueError: If it holds none.
    """
    if CONFIG_KEY not in checkpoint:
        raise ValueError(
            f"the checkpoint {str(path)!r} holds no configuration: its module was built from objects; build it "
            "the same way, or give them, as in `load_from_checkpoint(path, backbone=..., anchor=..., ...)`"
        )
    return str(checkpoint[CONFIG_KEY])


def check_stage(checkpoint: Mapping[str, object], kind: type) -> None:
    """Refuse to go on from a checkpoint of another training stage. A subclass is no other stage.

    Args:
        checkpoint: Its stage is named in it, or is the class in its configuration.
        kind: The class of the module that is to go on.

    Raises:
        ValueError: Naming both stages, and the remedy.
    """
    stage = checkpoint.get(STAGE_KEY)
    if stage is None and CONFIG_KEY in checkpoint:
        model = yaml.safe_load(str(checkpoint[CONFIG_KEY]))["model"]
        stage = model["class_path"].rpartition(".")[2]
    if stage is not None and stage not in [each.__name__ for each in kind.__mro__]:
        raise ValueError(
            f"the checkpoint is of the stage {stage}, not of {kind.__name__}, and a stage goes on only from its own; to "
            "begin with its generator give the file as `model.weights`"
        )


def build_module(
    kind: type[Module], text: str, changes: Mapping[str, object], weights: Mapping[str, Tensor]
) -> Module:
    """Build the module that a configuration describes.

    Args:
        kind: The class it must be of.
        text: The configuration, YAML, with full import paths.
        changes: Arguments that replace the configured ones.
        weights: The checkpoint's, which will replace those of the configured file: it may be gone.

    Raises:
        ValueError: If it is of another class, or no longer fits.
    """
    model = yaml.safe_load(text)["model"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    arguments = {**model.get("init_args", {}), **changes}
    plain, lost = without_lost_file({**model, "init_args": arguments})
    try:
        built: LightningModule = parser.instantiate_classes(
            parser.parse_object({"model": plain})
        ).model
    except (ArgumentError, ValueError) as error:
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"the checkpoint's configuration no longer fits: {said[-1]}") from None
    check_replaced(built, weights, lost)
    if isinstance(built, kind):
        return built
    raise ValueError(f"the checkpoint is of a {type(built).__name__}, not of a {kind.__name__}")
