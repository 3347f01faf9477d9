"""trajectories: solve a teacher's ODE on prompts or clips, and store the states a few-step generator starts from."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from lightning_adastate.data.video_folder import VideoFolderData
from lightning_adastate.files import output_folder
from lightning_adastate.generation.trajectories import make_trajectories
from lightning_adastate.generation.trajectory_plan import Making, Source
from lightning_adastate.recipes.loading import import_families
from lightning_adastate.recipes.names import resolve_arguments
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.training import StreamModule

DESCRIPTION = """Solve the teacher's ODE from noise to clean clips and store, for each, its states at the
noise levels of `model.schedule` and its end: what ODERegression learns from. `model` is the teacher with the
generator's schedule. Files that are there already are not made again."""


def trajectories_parser() -> ArgumentParser:
    """Return the parser of ``trajectories``."""
    parser = SentenceParser(prog="lightning_adastate trajectories", description=DESCRIPTION)
    parser.add_argument("-c", "--config", action="config", help="A YAML file: toy/trajectories.")
    parser.add_class_arguments(StreamModule, "model", sub_configs=True)
    parser.add_subclass_arguments(VideoFolderData, "data", required=False)
    parser.add_class_arguments(Making, None)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Parse, build, make."""
    import_families()
    parser = trajectories_parser()
    config = parser.parse_args(None if args is None else resolve_arguments(args))
    built = parser.instantiate_classes(config)
    options = {name: built[name] for name in Making.__dataclass_fields__}
    making = Making(**options)
    module: StreamModule = built.model.to(making.where).eval()
    with output_folder(making.folder):
        return make_trajectories(module, making, Source(module, making, built.get("data")))
