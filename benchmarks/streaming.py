"""Time and memory of streaming per chunk, for every anchor, with ratios side by side in one run.

    python benchmarks/streaming.py                        # about 4 minutes on 2 cores
    python benchmarks/streaming.py --chunks 200 --json out.json

Columns: median milliseconds per chunk of a fresh stream from chunk 20 on and of one that is near its
last chunk, and their ratio (1.00: latency does not grow); growth of the resident memory in between; and
the time of full recomputation over ours: the same window's clean frames pushed through the backbone in
every pass, without a cache of keys and values. The three are timed in turns, so the ratios hold on a
busy machine. A chunk is 3 latent frames in 4 denoise passes and a clean pass.
"""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

import argparse
import statistics
from pathlib import Path

import torch
from bound import MatmulRate, chunk_flops, milliseconds
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rows import PIXELS, Row, device_name, print_rows, write

from lightning_adastate.anchors import (
    AdaptiveAnchor,
    EMAAnchor,
    ReplacementAnchor,
    StaticAnchor,
    TriangularAnchor,
)
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.backbones.masks import diffusion_forcing_mask
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.flow import add_noise, velocity_to_x0
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.streamer import Streamer

ANCHORS = {
    "none": lambda: StaticAnchor(0),
    "static": lambda: StaticAnchor(1),
    "EMA": lambda: EMAAnchor(1, decay=0.99),
    "replacement": lambda: ReplacementAnchor(1),
    "triangular": lambda: TriangularAnchor(3, bank_frames=6),
    "adaptive": lambda: AdaptiveAnchor(1),
}
LATENT = (16, 8, 12)
WINDOW, CHUNK, EARLY, SPAN = 6, 3, 20, 30
CPU = torch.device("cpu")


def small_backbone() -> WanTransformer:
    torch.manual_seed(0)
    return WanTransformer(
        128, ffn_dim=512, num_heads=4, num_layers=4, freq_dim=64, text_dim=64, text_tokens=32
    ).eval()


def resident_megabytes() -> float:
    """Read this process's resident memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def measure(
    streamer: Streamer, text: torch.Tensor, chunks: int, name: str, rate: MatmulRate
) -> dict[str, float]:
    """Stream to the end, then alternate late chunks, a fresh stream's chunks and recomputation.

    Alternating makes the ratios fair on a machine whose speed changes by the minute.
    """
    long = streamer.stream(streamer.start(text, latent_shape=LATENT))
    for _ in track(range(EARLY), name, transient=True):
        next(long)
    before = resident_megabytes()
    for _ in track(range(chunks - EARLY - SPAN), name, transient=True):
        next(long)
    growth = resident_megabytes() - before
    fresh, firsts = None, []
    for _ in range(3):
        fresh = streamer.stream(streamer.start(text, latent_shape=LATENT))
        firsts.append(milliseconds(lambda stream=fresh: next(stream), CPU))
    for _ in range(EARLY - 1):
        next(fresh)
    late, early, naive = [], [], []
    for _ in range(SPAN):
        rate.sample()
        late.append(milliseconds(lambda: next(long), CPU))
        early.append(milliseconds(lambda: next(fresh), CPU))
        naive.append(milliseconds(lambda: recompute(streamer, text), CPU))
    return {
        "first_ms": statistics.median(firsts),
        "early_ms": statistics.median(early),
        "late_ms": statistics.median(late),
        "recomputation_ms": statistics.median(naive),
        "memory_growth_mb": growth,
        "memory_mb": resident_megabytes(),
    }


@torch.no_grad()
def recompute(streamer: Streamer, text: torch.Tensor) -> None:
    """Make one chunk with the same denoise passes, re-encoding the window's clean frames in each."""
    backbone, passes = streamer.backbone, streamer.schedule.passes(1)
    clean = torch.randn(1, WINDOW - CHUNK, *LATENT)
    mask = diffusion_forcing_mask([WINDOW - CHUNK, CHUNK])
    live = torch.randn(1, CHUNK, *LATENT)
    for one in passes[:-1]:
        timestep = torch.tensor([[0.0] * (WINDOW - CHUNK) + [one.timestep] * CHUNK])
        out = backbone(
            torch.cat([clean, live], 1),
            timestep_BF=timestep,
            text=backbone.text_kv(text),
            mask_FF=mask,
        )
        x0 = velocity_to_x0(out.velocity_BFCHW[:, -CHUNK:], live, one.sigma)
        if one.next_sigma is not None:
            live = add_noise(x0, torch.randn_like(x0), one.next_sigma)


def shared(name: str, streamer: Streamer, found: dict[str, float], rate: MatmulRate) -> Row:
    """Return the row that all benchmarks have."""
    return Row(
        model="small",
        scope="DiT",
        path="eager",
        device=device_name(CPU),
        dtype="float32",
        attention="sdpa",
        cached_frames=WINDOW - CHUNK,
        anchor=name,
        streams=1,
        ms=found["early_ms"],
        frames=CHUNK * PIXELS,
        first_ms=found["first_ms"],
        peak_mb=found["memory_mb"],
        bound_ms=rate.bound_ms(chunk_flops(streamer, LATENT)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=2000, help="chunks to stream per anchor")
    parser.add_argument("--anchors", nargs="+", choices=ANCHORS, default=list(ANCHORS))
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    if args.chunks < EARLY + SPAN:
        parser.error(f"--chunks must be {EARLY + SPAN} or more, got {args.chunks}")
    text = torch.randn(1, 32, 64)
    backbone, found, rows = small_backbone(), {}, []
    for name in args.anchors:
        streamer = Streamer(
            backbone,
            anchor=ANCHORS[name](),
            cache=RelativisticCache(window_frames=WINDOW),
            schedule=FewStepSchedule(CHUNK),
        )
        rate = MatmulRate(CPU, torch.float32)
        found[name] = measure(streamer, text, args.chunks, name, rate)
        rows.append(shared(name, streamer, found[name], rate))
    print_rows(rows)
    table = Table(title=f"{WINDOW - CHUNK} cached + {CHUNK} live frames")
    for column in (
        "anchor",
        f"ms, chunk {EARLY}",
        f"ms, chunk {args.chunks}",
        "ratio",
        "growth MB",
        "recompute / ours",
    ):
        table.add_column(column, justify="left" if column == "anchor" else "right")
    for name, row in found.items():
        table.add_row(
            name,
            f"{row['early_ms']:.1f}",
            f"{row['late_ms']:.1f}",
            f"{row['late_ms'] / row['early_ms']:.3f}",
            f"{row['memory_growth_mb']:+.1f}",
            f"{row['recomputation_ms'] / row['early_ms']:.2f}",
        )
    Console().print(table)
    write(args.json, rows, found)


if __name__ == "__main__":
    main()
