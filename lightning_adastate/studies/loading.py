"""A study from its grid file, as the command line builds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from jsonargparse import Namespace

from lightning_adastate.recipes.explain import in_sentences
from lightning_adastate.recipes.names import config_file
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.studies.grid import Grid
from lightning_adastate.studies.study import Study

DESCRIPTION = """Train a grid of configurations with several seeds, score every cell on the same episodes, and write
one table with intervals. What is there already is not done again; a run that was killed goes on."""


def load_study(
    config: str,
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
    store: str | Path | None = None,
    any_code: bool = False,
) -> Study:
    """Build the study that a grid file describes; ``run`` it.

    Args:
        config: A file, or the name of a shipped one (``grids/anchors``).
        overrides: As on the command line, for example ``["--seeds=[0,1]"]``.
        output: Folder of the result; ``None`` is ``runs/`` and the file's name.
        store: Folder of trainings and scores, which several studies may share; ``None`` is the output.
        any_code: Take what other versions of the code have made, where this one has nothing.

    Raises:
        ValueError: If there is no such file, or it does not fit.
    """
    parser = study_parser(exit_on_error=False)
    path = config_file(config)
    with in_sentences(parser):
        parsed = parser.parse_args([f"--config={path}", *overrides])
        grid = build_grid(parser, parsed)
    folder = Path(output) if output is not None else Path("runs") / path.stem
    return Study(grid, folder, None if store is None else Path(store), any_code, path.stem)


def study_parser(*, exit_on_error: bool = True) -> SentenceParser:
    """Return the parser of a grid."""
    parser = SentenceParser(
        prog="lightning_adastate ablate", description=DESCRIPTION, exit_on_error=exit_on_error
    )
    parser.add_argument("-c", "--config", action="config", help="A grid: grids/anchors.")
    parser.add_class_arguments(Grid)
    return parser


def build_grid(parser: SentenceParser, parsed: Namespace) -> Grid:
    """Build a parsed grid."""
    built = parser.instantiate_classes(parsed)
    return Grid(**{field.name: built[field.name] for field in fields(Grid)})
