"""attention: how much attention each cached frame gets in a stream of a recipe, as numbers and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from lightning_adastate.analysis.attention import nothing_read, probe_attention
from lightning_adastate.analysis.attention_pictures import attention_picture
from lightning_adastate.analysis.attention_text import as_plain, table_of
from lightning_adastate.data import read_prompts
from lightning_adastate.files import output_folder, write_text
from lightning_adastate.recipes.loading import build_streaming, import_families, recipe_parser
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.weights.placement import named_device

DESCRIPTION = """Stream a recipe and measure, in every pass, layer and head, which share of the attention to cached
frames each of them gets (AdaState section 3.1): does the anchor dominate? The stream is the one that `generate`
would make. Prints a table, and writes attention.json and attention.png."""


def attention_parser() -> SentenceParser:
    """Return the parser of ``attention``."""
    parser = recipe_parser(prog="lightning_adastate attention", description=DESCRIPTION)
    parser.add_argument("--weights", type=str | None, help="Weights instead of `model.weights`.")
    parser.add_argument(
        "--prompts",
        type=str,
        required=True,
        help="A prompt, or a file with one per line and stream.",
    )
    parser.add_argument("--chunks", type=int, default=12, help="How many chunks.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the noise.")
    parser.add_argument(
        "--device", type=str, default="auto", help="`auto` is CUDA if there is one."
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/attention"), help="Folder.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Parse, stream, print and write."""
    import_families()
    parser = attention_parser()
    parsed = parser.parse_args(args)
    if parsed.model is None:
        parser.error("the following arguments are required: model")
    device = named_device(parsed.device)
    prompts = read_prompts(parsed.prompts)
    console = Console()
    with output_folder(parsed.output):
        module = build_streaming(parser, parsed.model, parsed.weights).to(device)
        state = module.open_stream(prompts, seed=parsed.seed)
        made = probe_attention(module.streamer, state, parsed.chunks)
        seen = [mass for _, masses in track(made, "streaming", parsed.chunks) for mass in masses]
        if not seen:
            raise ValueError(nothing_read(module.streamer, parsed.chunks))
        console.print(table_of(seen))
        title = type(module.streamer.anchor).__name__
        attention_picture(parsed.output / "attention.png", seen, title=title)
        write_text(parsed.output / "attention.json", json.dumps([as_plain(m) for m in seen]))
    console.print(f"written to {parsed.output}: attention.json, attention.png")
    return 0
