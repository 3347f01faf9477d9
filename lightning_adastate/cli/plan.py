"""plan: what a recipe will take of memory, part by part, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jsonargparse import Namespace
from rich.console import Console

from lightning_adastate.memory.planning import Shape, phases, total_gb
from lightning_adastate.memory.table import NOT_COUNTED, print_phase
from lightning_adastate.recipes.loading import import_families, recipe_parser
from lightning_adastate.recipes.parser import SentenceParser

DESCRIPTION = """Predict what a recipe takes of memory: weights, averages, teacher, critic, optimiser, the stream's keys
and values, activations, codec and text; for generating and for training. Nothing is loaded and nothing is
allocated: the real code runs on tensors without memory. The exit code is 1 if `--device_memory` is not enough."""


def plan_parser() -> SentenceParser:
    """Return the parser of ``plan``: every option of a recipe is accepted, and only the model's count."""
    parser = recipe_parser(prog="lightning_adastate plan", description=DESCRIPTION)
    parser.add_class_arguments(Shape, "shape")
    parser.add_argument(
        "--precision", type=str | None, help="As `trainer.precision`; null is the recipe's."
    )
    parser.add_argument(
        "--device_memory", type=float | None, help="GB of a device; says whether it fits."
    )
    parser.add_argument(
        "--phase",
        type=Literal["both", "generate", "fit"],
        default="both",
        help="What to predict.",
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Parse, predict and print; the exit code is 1 if something asked for does not fit."""
    import_families()
    parser = plan_parser()
    asked = parser.parse_args(args)
    shape = parser.instantiate_classes(Namespace(shape=asked.shape)).shape
    limit = asked.device_memory
    found = phases(parser, asked, asked.precision, shape, asked.phase, limit)
    console = Console()
    for phase in found:
        print_phase(phase, console, limit)
    console.print(NOT_COUNTED)
    return int(limit is not None and any(total_gb(phase) > limit for phase in found))
