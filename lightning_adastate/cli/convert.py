"""convert: weights from any known format into Wan's, diffusers' or Self-Forcing's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.weights.conversion import HEAD_DIM, DTypeName, Format, convert

DESCRIPTION = """Convert weights. The source is a .safetensors file, a .pt/.pth/.ckpt checkpoint (its generator's
average where it has one), a folder of Wan's or diffusers' files, also sharded, or a shipped name. Tensors are
read one by one and written whole or not at all; with `--dtype keep` they are the same bit for bit."""


def convert_parser() -> SentenceParser:
    """Return the parser of ``convert``."""
    parser = SentenceParser(prog="lightning_adastate convert", description=DESCRIPTION)
    parser.add_argument("source", type=str, help="File, folder or shipped name.")
    parser.add_argument(
        "target",
        type=Path,
        help="What to write: a .safetensors file or a folder (wan), a folder (diffusers), a .pt file "
        "(self_forcing).",
    )
    parser.add_argument(
        "--to", type=Format, default="wan", help=f"One of {', '.join(get_args(Format))}."
    )
    parser.add_argument(
        "--part",
        type=str | None,
        help="Copy of the network that is meant: generator_ema, generator, critic, ...; null is the first "
        "of these that is there.",
    )
    parser.add_argument("--dtype", type=DTypeName, default="keep", help="Number format to write.")
    parser.add_argument(
        "--shard_gb", type=float, default=10.0, help="Largest file of a folder, in GB."
    )
    parser.add_argument(
        "--num_heads",
        type=int | None,
        help=f"Attention heads, for config.json; null is what the source's config.json "
        f"says, else width / {HEAD_DIM}, as in Wan 2.1.",
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Parse, convert, and say what was written."""
    config = convert_parser().parse_args(args)
    written = convert(
        config.source,
        config.target,
        to=config.to,
        part=config.part,
        dtype=config.dtype,
        shard_gb=config.shard_gb,
        num_heads=config.num_heads,
    )
    print(f"written to {config.target}: {written} tensors, {config.to}")
    return 0
