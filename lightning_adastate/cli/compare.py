"""compare: the same weights, prompts, given frames and noise, streamed with several mechanisms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from jsonargparse import ArgumentParser

from lightning_adastate.anchors import Anchor
from lightning_adastate.evaluation.arms import Variation
from lightning_adastate.evaluation.comparison import run_compare, write_files
from lightning_adastate.evaluation.tables import print_tables, wide_console
from lightning_adastate.files import output_folder
from lightning_adastate.recipes.loading import import_families
from lightning_adastate.recipes.names import resolve_arguments
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.training import StreamModule
from lightning_adastate.weights import load_into
from lightning_adastate.worlds import PanWorld

DESCRIPTION = """Stream PanWorld with several mechanisms from the same prompts, given frames and noise, score
every arm against the exact truth, and write a table, a plot, a side-by-side video and a contact sheet. Arms
differ in their anchor alone (`anchors`, see configs/toy/compare.yaml) or in what they name (`arms`)."""


class Numbers(TypedDict):
    """How much to compare: the number arguments of ``run_compare``."""

    episodes: int
    horizons: list[int]
    num_given: int
    seed: int


def compare_parser() -> ArgumentParser:
    """Return the parser of ``compare``."""
    parser = SentenceParser(prog="lightning_adastate compare", description=DESCRIPTION)
    parser.add_argument("-c", "--config", action="config", help="A YAML file: toy/compare.")
    parser.add_class_arguments(StreamModule, "model", sub_configs=True)
    parser.add_class_arguments(PanWorld, "world")
    parser.add_argument(
        "--anchors", type=dict[str, Anchor], help="Arms: a name and an anchor each."
    )
    parser.add_argument(
        "--arms", type=dict[str, Variation], help="Arms: a name and what differs from the model."
    )
    parser.add_argument("--weights", type=str | None, help="Weights instead of `model.weights`.")
    parser.add_argument("--episodes", type=int, default=64, help="Paired episodes per arm.")
    parser.add_argument("--horizons", type=list[int], default=[21, 126], help="Lengths in frames.")
    parser.add_argument("--num_given", type=int, default=3, help="Given frames, whole chunks.")
    parser.add_argument("--seed", type=int, default=1000, help="Seed of episodes and noise.")
    parser.add_argument("--output", type=Path, default=Path("outputs/compare"), help="Folder.")
    return parser


@dataclass(frozen=True)
class Setting:
    """A parsed comparison: what streams, in which world, and in which arms."""

    module: StreamModule
    world: PanWorld
    arms: dict[str, Variation]
    numbers: Numbers
    output: Path


def build(args: Sequence[str] | None) -> Setting:
    """Parse the command line and build what it names."""
    import_families()
    parser = compare_parser()
    config = parser.parse_args(None if args is None else resolve_arguments(args))
    numbers = Numbers(
        episodes=config.episodes,
        horizons=config.horizons,
        num_given=config.num_given,
        seed=config.seed,
    )
    built = parser.instantiate_classes(config)
    module: StreamModule = built.model
    if config.weights is not None:
        load_into(module.streamer.backbone, config.weights)
    arms = {name: Variation(anchor) for name, anchor in (built.anchors or {}).items()}
    own = built.arms or {}
    if arms.keys() & own.keys():
        raise ValueError(f"`anchors` and `arms` both name {min(arms.keys() & own.keys())!r}")
    return Setting(module, built.world, {**arms, **own}, numbers, config.output)


def main(args: Sequence[str] | None = None) -> int:
    """Parse, stream every arm, print and write."""
    setting = build(args)
    with output_folder(setting.output):
        truth, arms = run_compare(setting.module, setting.world, setting.arms, **setting.numbers)
        print_tables(arms, wide_console())
        num_given = setting.numbers["num_given"]
        write_files(truth, arms, setting.world, setting.output, num_given=num_given)
    return 0
