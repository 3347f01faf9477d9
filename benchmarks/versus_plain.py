"""Our stream and a straightforward one of the same window, in turns, with equal output.

    python benchmarks/versus_plain.py            # about a minute on one core
    python benchmarks/versus_plain.py --chunks 30 --json out.json

The plain stream (benchmarks/plain.py) joins and rotates the window in complex128 and embeds and projects
the text in every layer and pass, as public code does. Columns: median milliseconds per chunk once both
windows are full, ours also with compiled blocks; the ratios; the largest difference of the outputs. A chunk
is 3 latent frames in 4 denoise passes and a clean pass, behind a static sink of 3 frames; text has 512 tokens.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from plain import PlainStream
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streamer import Streamer

SINK, CHUNK, TEXT = 3, 3, 512
SIZES = {  # dim, heads, layers, latent (C, H, W), budget
    "small, 12 frames": (128, 4, 4, (16, 8, 12), 12),
    "small, 21 frames": (128, 4, 4, (16, 8, 12), 21),
    "medium, 12 frames": (256, 4, 6, (16, 12, 20), 12),
}


def timed(stream) -> tuple[torch.Tensor, float]:
    start = time.perf_counter()
    made = next(stream)
    latents = made if isinstance(made, torch.Tensor) else made.latents_BFCHW
    return latents, 1e3 * (time.perf_counter() - start)


def measure(name: str, chunks: int) -> dict[str, float]:
    """Run the three streams in turns and return medians, ratios and the largest difference."""
    dim, heads, layers, latent, budget = SIZES[name]
    torch.manual_seed(0)
    model = WanTransformer(
        dim,
        ffn_dim=4 * dim,
        num_heads=heads,
        num_layers=layers,
        freq_dim=64,
        text_dim=64,
        text_tokens=TEXT,
    ).eval()
    torch.nn.init.normal_(model.head.head.weight, std=0.05)
    text, schedule = torch.randn(1, TEXT, 64), FewStepSchedule(CHUNK)
    streamer = Streamer(
        model,
        anchor=StaticAnchor(SINK),
        cache=RelativisticCache(budget_frames=budget),
        schedule=schedule,
    )
    streams = {
        "ours": streamer.stream(streamer.start(text, latent_shape=latent)),
        "compiled": streamer.stream(streamer.start(text, latent_shape=latent)),
        "plain": PlainStream(model, schedule, SINK, budget).stream(text, latent),
    }
    warm, worst = budget // CHUNK + 4, 0.0
    times: dict[str, list[float]] = {key: [] for key in streams}
    for index in track(range(warm + chunks), name, transient=True):
        made = {}
        for key, stream in streams.items():
            model.compile_blocks = "steady" if key == "compiled" else "never"
            made[key], spent = timed(stream)
            if index >= warm:
                times[key].append(spent)
        gaps = [(made[key] - made["plain"]).abs().max().item() for key in ("ours", "compiled")]
        worst = max(worst, *gaps)
    row = {f"{key}_ms": statistics.median(values) for key, values in times.items()}
    return {
        **row,
        "plain / ours": row["plain_ms"] / row["ours_ms"],
        "plain / compiled": row["plain_ms"] / row["compiled_ms"],
        "largest_difference": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=20, help="chunks to time per row")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    rows = {name: measure(name, args.chunks) for name in args.sizes}
    device = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    table = Table(
        title=f"ours and plain in turns, float32, SDPA, torch {torch.__version__}, {device}"
    )
    columns = ["ours_ms", "compiled_ms", "plain_ms", "plain / ours", "plain / compiled"]
    for column in ("model", *columns, "largest difference"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, row in rows.items():
        numbers = [f"{row[column]:.2f}" for column in columns]
        table.add_row(name, *numbers, f"{row['largest_difference']:.1e}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
