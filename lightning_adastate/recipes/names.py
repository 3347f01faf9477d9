"""Shipped configurations by name: ``toy/adastate``, ``anchors/ema.yaml``. A local file of that name wins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_adastate.recipes.yaml_file import check_yaml

PACKAGE = Path(__file__).parent.parent

WEIGHTS = (".ckpt", ".safetensors", ".pt", ".pth", ".bin")
"""Endings of files that hold weights."""

CONFIG_OPTIONS = ("-c", "--config")
"""Options whose value is a configuration file."""

SWITCHES = ("--generation.overwrite",)
"""Options that mean true when they stand alone."""

COMPONENT_PREFIXES = ("--model", "--data", "--trainer")
"""Options whose value may be a component's file."""


def config_root() -> Path:
    """Return the folder of the shipped configurations: in an installed package, else in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def find_config(name: str) -> Path | None:
    """Return the file meant by ``name``, with or without ``.yaml``; ``None`` if there is none."""
    if not name or "\n" in name:
        return None
    for place in (Path(), config_root()):
        for candidate in (place / name, place / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    return None


def config_file(name: str) -> Path:
    """Return the file meant by ``name``.

    Raises:
        ValueError: If there is none, where shipped names are listed, or it holds weights.
    """
    found = find_config(name)
    _check_config(found)
    if found is None:
        raise ValueError(f"there is no config {name!r}; shipped are {', '.join(recipe_names())}")
    return found


def resolve_arguments(args: Sequence[str]) -> list[str]:
    """Return the arguments with names of shipped configurations replaced by their paths, and switches turned on.

    Values that name no file are left as they are, for the parser to judge.
    """
    resolved: list[str] = []
    option = ""
    for arg, coming in zip(args, [*args, "-"][1:], strict=True):
        if arg in SWITCHES and coming.startswith("-"):
            resolved.append(f"{arg}=true")
        elif arg.startswith("-"):
            option, equals, value = arg.partition("=")
            resolved.append(f"{option}={_resolve(option, value)}" if equals else arg)
            option = "" if equals else option
        else:
            resolved.append(_resolve(option, arg))
            option = ""
    return resolved


def _resolve(option: str, value: str) -> str:
    if option in CONFIG_OPTIONS:
        found = find_config(value)
        _check_config(found)
    elif option.startswith(COMPONENT_PREFIXES) and ("/" in value or value.endswith(".yaml")):
        found = find_config(value)
        if found is not None and found.suffix == ".yaml":
            check_yaml(found)
        found = found if found is not None and _is_component(found) else None
    else:
        return value
    return value if found is None else str(found)


def _check_config(path: Path | None) -> None:
    """Refuse weights where a configuration is wanted, and a file that is no YAML.

    Raises:
        ValueError: Naming the file, and where its configuration is.
    """
    if path is None:
        return
    if path.suffix in WEIGHTS:
        raise ValueError(
            f"{str(path)!r} holds weights, no configuration: give the config.yaml beside the run's checkpoints, "
            "and the weights as --ckpt_path; from Python, `load_recipe` builds from a checkpoint"
        )
    check_yaml(path)


def _is_component(path: Path) -> bool:
    """Tell a component's file (``class_path`` at its top) from a recipe and from anything else."""
    if path.suffix != ".yaml":
        return False
    return any(line.startswith("class_path:") for line in path.read_text().splitlines())


def recipe_arguments(config: str, overrides: Sequence[str]) -> list[str]:
    """Return the command line of a configuration and overrides.

    Raises:
        ValueError: If there is no such configuration.
    """
    return [f"--config={config_file(config)}", *resolve_arguments(overrides)]


def recipe_names() -> list[str]:
    """Return the names of all shipped recipes: files that are not a component's."""
    root = config_root()
    files = sorted(path for path in root.rglob("*.yaml") if not _is_component(path))
    return [path.relative_to(root).with_suffix("").as_posix() for path in files]
