"""layout: what every pass of a configuration reads, where it stands in time, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lightning_adastate.analysis.layout import lay_out
from lightning_adastate.analysis.layout_table import WIDTH, print_layout
from lightning_adastate.analysis.operations import WAN_1_3B, Geometry
from lightning_adastate.recipes.mechanism import (
    arguments_of,
    build_mechanism,
    mechanism_parser,
    split_configs,
)
from lightning_adastate.recipes.parser import SentenceParser

DESCRIPTION = """Stream symbols through the anchor, cache and schedule of a configuration, and print for every chunk
which frames its passes attend to, at which temporal index, and what they cost. No weights, no GPU. A
configuration is a recipe (toy/adastate) or a mechanism alone (mechanisms/longlive); what it holds beside these
three is left aside. Several configurations are joined, later ones win."""


def layout_parser() -> SentenceParser:
    """Return the parser of ``layout``."""
    parser = mechanism_parser(description=DESCRIPTION)
    parser.add_argument("--chunks", type=int, default=8, help="How many chunks.")
    parser.add_argument("--picture", type=Path | None, help="Also draw it into this .png file.")
    parser.add_argument(
        "--geometry", type=Geometry, default=WAN_1_3B, help="Sizes the costs are for."
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Parse, lay out, print and draw."""
    configs, rest = split_configs([] if args is None else args)
    parser = layout_parser()
    parsed = parser.parse_args(arguments_of(configs, rest))
    if parsed.picture is not None and parsed.picture.suffix != ".png":
        raise ValueError(f"`picture` must end in .png, got {str(parsed.picture)!r}")
    mechanism = build_mechanism(parser, parsed)
    geometry: Geometry = parser.instantiate_classes(parsed).geometry
    chunks = lay_out(
        mechanism.anchor,
        mechanism.cache,
        mechanism.schedule,
        parsed.chunks,
        mechanism.timeline,
        grid=(geometry.rows, geometry.columns),
    )
    console = Console()
    print_layout(chunks, geometry, console if console.width >= WIDTH else Console(width=WIDTH))
    if parsed.picture is not None:
        from lightning_adastate.analysis.layout_pictures import layout_picture

        title = configs[-1] if configs else type(mechanism.anchor).__name__
        layout_picture(parsed.picture, chunks, title=Path(title).stem)
        console.print(f"written to {parsed.picture}")
    return 0
