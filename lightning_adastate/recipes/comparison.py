"""A comparison from its configuration: what streams, in which world, and in which arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jsonargparse import Namespace

from lightning_adastate.anchors import Anchor
from lightning_adastate.evaluation.arms import Variation
from lightning_adastate.evaluation.comparison import Compared, compare
from lightning_adastate.evaluation.swap_probe import SwapProbe
from lightning_adastate.recipes.explain import in_sentences
from lightning_adastate.recipes.loading import import_families
from lightning_adastate.recipes.names import recipe_arguments
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.training import StreamModule
from lightning_adastate.weights import load_into
from lightning_adastate.worlds import PanWorld

DESCRIPTION = """Stream PanWorld with several mechanisms from the same prompts, given frames and noise, score
every arm against the exact truth, and write a table, a plot, a side-by-side video and a contact sheet. Arms
differ in their anchor alone (`anchors`, see configs/toy/compare.yaml) or in what they name (`arms`)."""


@dataclass(frozen=True)
class Comparison:
    """A comparison, built.

    Args:
        module: What streams where an arm names nothing else.
        world: Where the episodes and their truth come from.
        arms: A name, and what differs from the module.
        episodes: Paired episodes per arm.
        horizons: Lengths in frames at which every stream is scored.
        num_given: Given frames, whole chunks.
        seed: Of episodes and noise.
        probe: Swaps the anchors' contents between streams as well; ``None`` does not.
    """

    module: StreamModule
    world: PanWorld
    arms: dict[str, Variation]
    episodes: int
    horizons: list[int]
    num_given: int
    seed: int
    probe: SwapProbe | None = None

    def run(self, arms: dict[str, Variation] | None = None) -> Compared:
        """Stream and score the arms, its own or others."""
        return compare(
            self.module,
            self.world,
            self.arms if arms is None else arms,
            episodes=self.episodes,
            horizons=self.horizons,
            num_given=self.num_given,
            seed=self.seed,
            probe=self.probe,
        )


def load_comparison(config: str = "toy/compare", overrides: Sequence[str] = ()) -> Comparison:
    """Build the comparison that a configuration describes; ``run`` it.

    Args:
        config: A file, or the name of a shipped one.
        overrides: As on the command line, for example ``["--episodes=8"]``.

    Raises:
        ValueError: If there is no such configuration, or it does not fit.
    """
    parser = comparison_parser(exit_on_error=False)
    arguments = recipe_arguments(config, overrides)
    with in_sentences(parser):
        return build_comparison(parser, parser.parse_args(arguments))


def comparison_config(config: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return a comparison's whole configuration as plain values, defaults included; nothing is built.

    Raises:
        ValueError: If there is no such configuration, or an option does not exist or fit.
    """
    parser = comparison_parser(exit_on_error=False)
    with in_sentences(parser):
        parsed = parser.parse_args(recipe_arguments(config, overrides))
        text = parser.dump(parsed, skip_none=False)
    plain: dict[str, Any] = yaml.safe_load(text)
    return plain


def comparison_parser(
    *,
    exit_on_error: bool = True,
    prog: str = "lightning_adastate compare",
    description: str = DESCRIPTION,
) -> SentenceParser:
    """Return the parser of a comparison."""
    import_families()
    parser = SentenceParser(prog=prog, description=description, exit_on_error=exit_on_error)
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
    parser.add_argument(
        "--swap_after",
        type=int | None,
        default=None,
        help="Also swap the anchors' contents between streams after this many chunks: who reads, who keeps?",
    )
    return parser


def build_comparison(parser: SentenceParser, parsed: Namespace) -> Comparison:
    """Build a parsed comparison.

    Raises:
        ValueError: If an arm is named twice, or something does not fit.
    """
    built = parser.instantiate_classes(parsed)
    module: StreamModule = built.model
    if parsed.weights is not None:
        load_into(module.streamer.backbone, parsed.weights)
    arms = {name: Variation(anchor) for name, anchor in (built.anchors or {}).items()}
    others = built.arms or {}
    if arms.keys() & others.keys():
        raise ValueError(f"`anchors` and `arms` both name {min(arms.keys() & others.keys())!r}")
    return Comparison(
        module=module,
        world=built.world,
        arms={**arms, **others},
        episodes=parsed.episodes,
        horizons=parsed.horizons,
        num_given=parsed.num_given,
        seed=parsed.seed,
        probe=None if parsed.swap_after is None else SwapProbe(parsed.swap_after),
    )
