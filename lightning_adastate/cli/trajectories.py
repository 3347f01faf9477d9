"""trajectories: solve a teacher's ODE on prompts or clips, and store the states a few-step generator starts from."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_adastate.generation.trajectories import make_trajectories
from lightning_adastate.recipes.trajectories import build_trajectories, trajectories_parser


def main(args: Sequence[str] | None = None) -> int:
    """Parse, build, make."""
    parser = trajectories_parser()
    return make_trajectories(*build_trajectories(parser, parser.parse_args(args)))
