"""Which checkpoint a run goes on from: the one that is named, or the newest whole one of the run's folder."""

from __future__ import annotations

import importlib
import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml
from lightning.pytorch import Trainer

from lightning_adastate.training.base import StreamModule
from lightning_adastate.training.checkpoint_folders import checkpoint_folders
from lightning_adastate.training.configuration import CONFIG_KEY, check_stage, unpickle

log = logging.getLogger(__name__)

CHECKPOINT_WORDS = ("last", "best", "hpc", "registry")
"""What is no path: `last` is ours, the rest Lightning's."""

SHARDED = "meta.pt"
"""File in the folder of a sharded checkpoint that holds everything but weights."""

IDENTITY = ("model", "data", "seed_everything")
"""Parts of a configuration that make a run the run it is. A trainer's settings may change on the way."""


def check_checkpoint(path: str | None, *, weights_only: bool, class_path: str) -> None:
    """Refuse a checkpoint that cannot be gone on from, before anything is built.

    Args:
        path: A file. What only the Trainer knows (``last``, a folder, an address) is left to it.
        weights_only: Whether it must load without running code from it; else it is not read here.
        class_path: The class of the module that is to go on.

    Raises:
        ValueError: If the file is missing or unreadable, holds weights alone, or is of another stage.
    """
    if path is None or path in CHECKPOINT_WORDS or "://" in path or Path(path).is_dir():
        return
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint {path!r}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path!r} is no checkpoint, or is cut short")
    if weights_only:
        module, _, name = class_path.rpartition(".")
        check_stage(read_training(path), getattr(importlib.import_module(module), name))


def read_training(path: str | Path) -> Mapping[str, object]:
    """Read a training checkpoint without its weights' bytes and without running what is in it.

    Args:
        path: A file, or the folder of a sharded checkpoint.

    Raises:
        ValueError: If it is unreadable, or holds weights alone.
    """
    sharded = Path(path).is_dir()
    found = unpickle(Path(path) / SHARDED if sharded else path, mmap=True)
    needed = {"loops"} if sharded else {"loops", "state_dict", "optimizer_states"}
    if not isinstance(found, dict) or not needed <= found.keys():
        raise ValueError(
            f"{str(path)!r} holds no training to resume; to start from weights use `--model.weights`"
        )
    return found


def newest_checkpoint(trainer: Trainer, module: StreamModule) -> Path:
    """Return the newest whole checkpoint that earlier starts of a run left in its folder.

    The folder is that of the trainer's checkpoint callbacks, or holds all versions of its first logger. Files that are
    cut short are passed over with a warning, and so are runs with other settings of model, data or seed.

    Args:
        trainer: Of the run that is to go on.
        module: What it trains.

    Raises:
        ValueError: If there is none.
    """
    folders = checkpoint_folders(trainer)
    where = ", ".join(f"'{folder}'" for folder in folders)
    found = {path for folder in folders for path in folder.glob("*.ckpt")}
    others: list[str] = []
    for path, checkpoint in whole_checkpoints(found):
        difference = _difference(module.recipe_text, checkpoint.get(CONFIG_KEY))
        if difference is None:
            return path
        others.append(f"the newest there, {path}, {difference}")
    if others:
        raise ValueError(
            f"no checkpoint in {where} is of this run: {others[0]}; to go on with it all the same give its path as "
            "`ckpt_path`"
        )
    what = "whole checkpoint" if found else "checkpoint"
    raise ValueError(
        f"`ckpt_path` is last, and there is no {what} in {where}; to begin, leave it away"
    )


def whole_checkpoints(paths: Iterable[Path]) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """Yield checkpoints that a training can go on from, the newest first, without their weights' bytes.

    Those that are cut short, as when the machine went down, are passed over with a warning.
    """
    for path in sorted(paths, key=_written, reverse=True):
        try:
            checkpoint = read_training(path)
        except ValueError as problem:
            log.warning("passed over: %s", problem)
            continue
        yield path, checkpoint


def _written(path: Path) -> tuple[int, str]:
    """Return when a checkpoint was written, and its name."""
    file = path / SHARDED if path.is_dir() else path
    return (file.stat().st_mtime_ns if file.exists() else 0), str(path)


def _difference(ours: str | None, theirs: object) -> str | None:
    """Return where two configurations describe different runs; ``None`` if nowhere, or if it cannot be known."""
    if ours is None or theirs is None:
        return None
    asked, made = (yaml.safe_load(str(text)) for text in (ours, theirs))
    asked, made = ({key: config.get(key) for key in IDENTITY} for config in (asked, made))
    return next(_differences(asked, made), None)


def _differences(
    asked: Mapping[str, object], made: Mapping[str, object], above: str = ""
) -> Iterator[str]:
    """Yield every difference between two configurations, in a few words."""
    for name, wanted in asked.items():
        if name not in made:  # younger than the other configuration
            continue
        found, key = made[name], f"{above}{name}"
        if isinstance(wanted, dict) and isinstance(found, dict):
            yield from _differences(wanted, found, f"{key}.")
        elif wanted != found:
            yield f"was made with {key} = {_short(found)}, not {_short(wanted)}"


def _short(value: object) -> object:
    """Return a component's class instead of all its arguments."""
    return value.get("class_path", value) if isinstance(value, dict) else value
