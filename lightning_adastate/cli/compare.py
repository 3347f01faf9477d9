"""compare: the same weights, prompts, given frames and noise, streamed with several mechanisms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_adastate.evaluation.console import wide_console
from lightning_adastate.evaluation.tables import print_tables
from lightning_adastate.files import output_folder
from lightning_adastate.recipes.comparison import build_comparison, comparison_parser


def main(args: Sequence[str] | None = None) -> int:
    """Parse, stream every arm, print and write."""
    parser = comparison_parser()
    parser.add_argument("--output", type=Path, default=Path("outputs/compare"), help="Folder.")
    parsed = parser.parse_args(args)
    comparison = build_comparison(parser, parsed)
    with output_folder(parsed.output):
        compared = comparison.run()
        print_tables(compared.arms, wide_console())
        names = compared.write(parsed.output)
    print(f"written to {parsed.output}: {', '.join(names)}")
    return 0
