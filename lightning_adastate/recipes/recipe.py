"""A recipe from Python: its module, its data and its trainer's settings, as the command line builds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningArgumentParser

from lightning_adastate.backbones import Backbone
from lightning_adastate.callbacks.video_predictions import VideoPredictionWriter
from lightning_adastate.generation.options import Generation
from lightning_adastate.recipes.explain import in_sentences
from lightning_adastate.recipes.loading import import_families
from lightning_adastate.recipes.names import config_file, recipe_arguments, resolve_arguments
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.training.base import StreamModule
from lightning_adastate.training.checkpoint_weights import check_replaced, without_lost_file
from lightning_adastate.training.configuration import config_text, read_checkpoint
from lightning_adastate.training.networks import built_in

GROUPS = ("seed_everything", "trainer", "model", "data", "generation", "prediction")
"""Options of a recipe. What else a verb stores beside them is its own."""

DEFAULT_SEED = 0

HALF = {"bf16-true": torch.bfloat16, "16-true": torch.float16}
"""Precisions whose weights take two bytes."""


class RecipeParser(SentenceParser, LightningArgumentParser):
    """LightningCLI's parser with our errors."""


@dataclass(frozen=True)
class Recipe:
    """A recipe, built.

    Args:
        module: The training stage, of the recipe's own class.
        data: Its data, or ``None`` where the recipe names none.
        trainer: Arguments for a ``Trainer``, callbacks and loggers built.
        config: The whole configuration as YAML text; it goes into the module's checkpoints.
    """

    module: StreamModule
    data: LightningDataModule | None
    trainer: dict[str, Any]
    config: str


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Build what a recipe describes, seeded as on the command line.

    ``Trainer(**recipe.trainer).fit(recipe.module, recipe.data)`` is then what ``fit --config`` does.

    Args:
        recipe: A recipe's file, the name of a shipped one (``toy/adastate``), or a training checkpoint, whose
            configuration and weights are taken.
        overrides: As on the command line, for example ``["--model.anchor=EMAAnchor"]``.

    Raises:
        ValueError: If there is no such recipe, or it does not fit.
    """
    import_families()
    checkpoint: Mapping[str, object] | None = None
    lost = None
    if Path(recipe).suffix == ".ckpt":
        checkpoint = read_checkpoint(recipe)
        stored = yaml.safe_load(config_text(checkpoint, recipe))
        stored["model"], lost = without_lost_file(stored["model"])
        config = yaml.safe_dump({key: stored[key] for key in GROUPS if key in stored})
    else:
        config = str(config_file(str(recipe)))
    parser = whole_recipe_parser()
    with in_sentences(parser):
        parsed = parser.parse_args([f"--config={config}", *resolve_arguments(overrides)])
        built = build(parser, parsed)
    if checkpoint is not None:
        weights = checkpoint["state_dict"]
        assert isinstance(weights, dict)
        if parsed.model.init_args.get("weights") is None:
            check_replaced(built.module, weights, lost)
        built.module.load_weights(weights)
    return built


def recipe_config(recipe: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return a recipe's whole configuration as plain values, defaults included; nothing is built.

    Written as YAML it is a recipe itself.

    Args:
        recipe: A recipe's file, or the name of a shipped one.
        overrides: As on the command line.

    Raises:
        ValueError: If there is no such recipe, or an option does not exist or fit.
    """
    import_families()
    parser = whole_recipe_parser()
    with in_sentences(parser):
        parsed = parser.parse_args(recipe_arguments(str(recipe), overrides))
        text = parser.dump(parsed, skip_none=False, skip_link_targets=False)
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def whole_recipe_parser() -> RecipeParser:
    """Return the parser of a whole recipe: model, data, trainer, seed; ``generation`` and ``prediction`` are left aside."""
    parser = RecipeParser(exit_on_error=False)
    parser.add_argument("-c", "--config", action="config", help="A recipe: toy/adastate.")
    parser.add_argument("--seed_everything", type=bool | int, default=DEFAULT_SEED)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_lightning_class_args(StreamModule, "model", subclass_mode=True, required=True)
    parser.add_lightning_class_args(
        LightningDataModule, "data", subclass_mode=True, required=False
    )
    parser.add_class_arguments(Generation, "generation", instantiate=False)
    parser.add_class_arguments(VideoPredictionWriter, "prediction", instantiate=False)
    return parser


def build(parser: RecipeParser, parsed: Namespace) -> Recipe:
    """Seed, and build a parsed recipe."""
    text = parser.dump(parsed, skip_none=False, skip_link_targets=False)
    build_in_format(parser, parsed.trainer.precision)
    if parsed.seed_everything is not False:
        seed_everything(
            None if parsed.seed_everything is True else parsed.seed_everything, workers=True
        )
    built = parser.instantiate_classes(parsed)
    module: StreamModule = built.model
    module.recipe_text = text
    trainer = dict(built.trainer.items(branches=True, nested=False))
    callbacks = trainer.get("callbacks") or []
    trainer["callbacks"] = list(callbacks) if isinstance(callbacks, list) else [callbacks]
    return Recipe(module, built.get("data"), trainer, text)


def build_in_format(parser: LightningArgumentParser, precision: object) -> None:
    """Build backbones in the format they will have: built wide and cast, 14B would need 57 GB on the way."""
    if precision in HALF:
        parser.add_instantiator(partial(_build, HALF[str(precision)]), Backbone)


def _build(dtype: torch.dtype, kind: type[Backbone], *args: object, **options: object) -> Backbone:
    """Build a backbone whose weights have that format from the start."""
    return built_in(dtype, partial(kind, *args, **options))
