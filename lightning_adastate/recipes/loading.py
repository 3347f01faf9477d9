"""A recipe's module from Python: the same file, names and overrides as on the command line."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule

from lightning_adastate.recipes.explain import in_sentences
from lightning_adastate.recipes.names import recipe_arguments
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.training.base import StreamModule

FAMILIES = (
    "anchors",
    "backbones",
    "caches",
    "callbacks",
    "codecs",
    "data",
    "losses",
    "metrics",
    "noise",
    "rewards",
    "rollouts",
    "schedules",
    "text",
    "training",
)
"""Modules whose classes are known by their short names."""

PACKAGE = StreamModule.__module__.split(".")[0]


def import_families() -> None:
    """Import every family and installed plug-in, so that their classes can be named without their path."""
    for family in FAMILIES:
        found = importlib.import_module(f"lightning_adastate.{family}")
        for name in getattr(found, "__all__", ()):
            getattr(found, name)  # a family may import its members when they are first used
    for plugin in entry_points(group="lightning_adastate.plugins"):
        plugin.load()


def load_module(
    config: str, *, weights: str | None = None, overrides: Sequence[str] = ()
) -> StreamModule:
    """Return what a recipe streams with, ready to stream.

    Args:
        config: A recipe's file, or the name of a shipped one (``toy/adastate``).
        weights: Backbone weights instead of the recipe's.
        overrides: As on the command line, for example ``["--model.anchor=EMAAnchor"]``.

    Raises:
        ValueError: If there is no such recipe, or it does not fit.
    """
    import_families()
    parser = recipe_parser(exit_on_error=False)
    arguments = recipe_arguments(config, overrides)
    with in_sentences(parser):
        return build_streaming(parser, parser.parse_args(arguments).model, weights)


def recipe_parser(
    *, prog: str | None = None, description: str | None = None, exit_on_error: bool = True
) -> SentenceParser:
    """Return a parser of recipes: every option is accepted, and only the model's mean something."""
    parser = SentenceParser(prog=prog, description=description, exit_on_error=exit_on_error)
    parser.add_argument("-c", "--config", action="config", help="A recipe: toy/adastate.")
    parser.add_subclass_arguments(StreamModule, "model")
    parser.add_subclass_arguments(LightningDataModule, "data", required=False, instantiate=False)
    for other in ("trainer", "generation", "prediction"):
        parser.add_argument(f"--{other}", type=dict | None, help="Accepted, and left aside.")
    parser.add_argument("--seed_everything", type=int | None, help="Accepted, and left aside.")
    return parser


def build_streaming(parser: SentenceParser, model: Namespace, weights: str | None) -> StreamModule:
    """Build what streams of a configured module, ready to stream."""
    wanted = Namespace(model=streaming_part(model, weights))
    module: StreamModule = parser.instantiate_classes(wanted).model
    return module.eval()


def streaming_part(model: Namespace, weights: str | None) -> Namespace:
    """Return the configuration of what streams: no teacher, no critic, no average.

    A stage of this package streams as ``StreamModule`` does, so its losses and rollouts, and their demands on
    schedule and anchor, are left out. Anybody else's class is built as it is.

    Args:
        model: The configured module.
        weights: Weights to load instead of the configured ones.
    """
    init_args = dict(model.init_args.items(branches=True, nested=False))
    chosen, kept = stream_arguments(model.class_path, init_args)
    if weights is not None:
        kept["weights"] = weights
    return Namespace(class_path=chosen, init_args=Namespace(kept))


def stream_arguments(class_path: str, init_args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the class that streams for a configured one, and those of its arguments that a stream depends on.

    Args:
        class_path: The configured class.
        init_args: Its arguments.
    """
    kept = dict(init_args)
    if class_path.startswith(f"{PACKAGE}."):
        known = StreamModule.__init__.__annotations__
        kept = {key: value for key, value in kept.items() if key in known}
        class_path = f"{StreamModule.__module__}.{StreamModule.__qualname__}"
    if "ema_decay" in kept:
        kept["ema_decay"] = None
    return class_path, kept
