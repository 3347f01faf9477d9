"""Our stream, our own naive one of the same window, with equal output, and the floor of both, in turns.

    python benchmarks/versus_plain.py            # about a minute on one core
    python benchmarks/versus_plain.py --chunks 30 --json out.json

The plain stream (benchmarks/plain.py) joins and rotates the window in complex128 and embeds and projects
the text in every layer and pass; public code does not, so this is no comparison with it. The floor (benchmarks/floor.py)
is the linear layers and the attention of the same passes alone. Columns: median milliseconds of CPU time (all threads of
this process) per chunk once the windows are full, ours also with compiled blocks; the ratios; the share of the floor;
the largest difference of the outputs. The rows above them are in wall-clock time, which other work disturbs. A chunk
is 3 latent frames in 4 denoise passes and a clean pass, behind a static sink of 3 frames; text has 512 tokens.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from bound import MatmulRate, chunk_flops
from floor import Floor
from plain import PlainStream
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rows import PIXELS, Row, device_name, print_rows, write

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.streamer import Streamer

SINK, CHUNK, TEXT = 3, 3, 512
CPU = torch.device("cpu")
SIZES = {  # dim, heads, layers, latent (C, H, W), budget
    "small, 12 frames": (128, 4, 4, (16, 8, 12), 12),
    "small, 21 frames": (128, 4, 4, (16, 8, 12), 21),
    "medium, 12 frames": (256, 4, 6, (16, 12, 20), 12),
}


class Spent(NamedTuple):
    """Milliseconds of a chunk, on the clock and of the CPU."""

    wall: float
    cpu: float


def timed(stream) -> tuple[torch.Tensor, Spent]:
    wall, cpu = time.perf_counter(), time.process_time()
    made = next(stream)
    spent = Spent(1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu))
    return made if isinstance(made, torch.Tensor) else made.latents_BFCHW, spent


def first_ms(begin) -> float:
    """Return the median time from the prompt to the first chunk."""
    found = []
    for _ in range(3):
        start = time.perf_counter()
        next(begin())
        found.append(1e3 * (time.perf_counter() - start))
    return statistics.median(found)


def measure(name: str, chunks: int) -> tuple[list[Row], dict[str, float]]:
    """Run the streams in turns and return rows, medians, ratios and the largest difference."""
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
    begin = {
        "ours": lambda: streamer.stream(streamer.start(text, latent_shape=latent)),
        "compiled": lambda: streamer.stream(streamer.start(text, latent_shape=latent)),
        "plain": lambda: PlainStream(model, schedule, SINK, budget).stream(text, latent),
        "floor": lambda: Floor(model, schedule, budget, text, latent).stream(),
    }
    streams = {key: start() for key, start in begin.items()}
    rate = MatmulRate(CPU, torch.float32)
    warm, worst = budget // CHUNK + 4, 0.0
    times: dict[str, list[Spent]] = {key: [] for key in streams}
    for index in track(range(warm + chunks), name, transient=True):
        made = {}
        if index >= warm:
            rate.sample()
        for key, stream in streams.items():
            model.compile_blocks = "steady" if key == "compiled" else "never"
            made[key], spent = timed(stream)
            if index >= warm:
                times[key].append(spent)
        gaps = [(made[key] - made["plain"]).abs().max().item() for key in ("ours", "compiled")]
        worst = max(worst, *gaps)
    row = {f"{key}_ms": statistics.median(each.cpu for each in times[key]) for key in streams}
    bound = rate.bound_ms(chunk_flops(streamer, latent))
    # A stream's first chunks run plain with compiled blocks too.
    firsts = {key: first_ms(start) for key, start in begin.items()}
    rows = [
        Row(
            model=name.split(",")[0],
            scope="DiT",
            path=key,
            device=device_name(CPU),
            dtype="float32",
            attention="sdpa",
            cached_frames=budget - SINK - CHUNK,
            anchor=f"sink of {SINK}",
            streams=1,
            ms=statistics.median(each.wall for each in times[key]),
            frames=CHUNK * PIXELS,
            first_ms=firsts[key],
            bound_ms=bound,
        )
        for key in streams
    ]
    return rows, {
        **row,
        "plain / ours": row["plain_ms"] / row["ours_ms"],
        "plain / compiled": row["plain_ms"] / row["compiled_ms"],
        "floor / ours": row["floor_ms"] / row["ours_ms"],
        "floor / compiled": row["floor_ms"] / row["compiled_ms"],
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
    found: dict[str, dict[str, float]] = {}
    rows: list[Row] = []
    for name in args.sizes:
        more, found[name] = measure(name, args.chunks)
        rows += more
    print_rows(rows)
    table = Table(title="in turns, CPU time")
    columns = [f"{key}_ms" for key in ("ours", "compiled", "plain", "floor")]
    ratios = ["plain / ours", "plain / compiled"]
    shares = ["floor / ours", "floor / compiled"]
    for column in ("model", *columns, *ratios, *shares, "largest difference"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, row in found.items():
        numbers = [f"{row[column]:.2f}" for column in (*columns, *ratios)]
        numbers += [f"{row[column]:.0%}" for column in shares]
        table.add_row(name, *numbers, f"{row['largest_difference']:.1e}")
    Console(width=max(Console().width, 150)).print(table)
    write(args.json, rows, found)


if __name__ == "__main__":
    main()
