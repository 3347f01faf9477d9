"""A teacher's trajectories from their configuration: the teacher, what to make, and from what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jsonargparse import Namespace

from lightning_adastate.data.video_folder import VideoFolderData
from lightning_adastate.generation.trajectory_plan import Making, Source
from lightning_adastate.recipes.explain import in_sentences
from lightning_adastate.recipes.loading import import_families
from lightning_adastate.recipes.names import recipe_arguments
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.training import StreamModule

DESCRIPTION = """Solve the teacher's ODE from noise to clean clips and store, for each, its states at the
noise levels of `model.schedule` and its end: what ODERegression learns from. `model` is the teacher with the
generator's schedule. Files that are there already are not made again."""


class Trajectories(NamedTuple):
    """What ``make_trajectories`` takes.

    Args:
        module: The teacher, with the generator's schedule.
        making: What to make, and where to put it.
        source: Prompts or clips.
    """

    module: StreamModule
    making: Making
    source: Source


def load_trajectories(config: str, overrides: Sequence[str] = ()) -> Trajectories:
    """Build what a configuration of trajectories describes: ``make_trajectories(*load_trajectories(...))``.

    Args:
        config: A file, or the name of a shipped one (``toy/trajectories``).
        overrides: As on the command line, for example ``["--num_clips=8"]``.

    Raises:
        ValueError: If there is no such configuration, or it does not fit.
    """
    parser = trajectories_parser(exit_on_error=False)
    arguments = recipe_arguments(config, overrides)
    with in_sentences(parser):
        return build_trajectories(parser, parser.parse_args(arguments))


def trajectories_parser(*, exit_on_error: bool = True) -> SentenceParser:
    """Return the parser of trajectories."""
    import_families()
    parser = SentenceParser(
        prog="lightning_adastate trajectories",
        description=DESCRIPTION,
        exit_on_error=exit_on_error,
    )
    parser.add_argument("-c", "--config", action="config", help="A YAML file: toy/trajectories.")
    parser.add_class_arguments(StreamModule, "model", sub_configs=True)
    parser.add_subclass_arguments(VideoFolderData, "data", required=False)
    parser.add_class_arguments(Making, None)
    return parser


def build_trajectories(parser: SentenceParser, parsed: Namespace) -> Trajectories:
    """Build parsed trajectories."""
    built = parser.instantiate_classes(parsed)
    making = Making(**{name: built[name] for name in Making.__dataclass_fields__})
    module: StreamModule = built.model.to(making.where).eval()
    return Trajectories(module, making, Source(module, making, built.get("data")))
