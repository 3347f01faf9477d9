"""Wan's VAE decoding a chunk along its two paths, in turns, and their largest difference.

    python benchmarks/codec.py                       # a quarter-width VAE on the CPU, about a minute
    python benchmarks/codec.py --widths 96 --size 64 96 --rounds 3      # the real width, random weights
    python benchmarks/codec.py --widths 96 --size 480 832 --device cuda --dtype bfloat16 --compile

Weights are random, in the real architecture; only the width differs. A chunk is 3 latent frames (12 pixel
frames) of a stream that has begun. Columns: median milliseconds per chunk of diffusers' modules frame by frame,
of our path, of ours compiled (--compile), of the linear preview; ratios; the largest difference of ours from
plain, in pixels of [0, 1].
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lightning_adastate.codecs import Codec, PreviewCodec, WanCodec, fit_preview

CHUNK = 3


def codecs(width: int, args: argparse.Namespace) -> dict[str, Codec]:
    """The paths to compare, with the same random weights."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        AutoencoderKLWan(base_dim=width).save_pretrained(folder)
        options = {"plain": {"path": "plain"}, "fast": {"path": "fast"}}
        if args.compile:
            options["compiled"] = {"path": "fast", "compile_passes": "steady"}
        made: dict[str, Codec] = {
            name: WanCodec(folder, dtype=args.dtype, frames_per_pass=CHUNK, **option).to(
                args.device
            )
            for name, option in options.items()
        }
    preview = PreviewCodec(made["fast"]).to(args.device)
    shape = made["fast"].latent_shape(*args.size)
    fit_preview(preview, [torch.randn(1, CHUNK, *shape, device=args.device)])
    return {**made, "preview": preview}


def measure(width: int, args: argparse.Namespace) -> dict[str, float]:
    """Decode the same chunks with every path in turns."""
    paths = codecs(width, args)
    shape = paths["fast"].latent_shape(*args.size)
    latents = torch.randn(1, 3 * CHUNK, *shape, device=args.device)
    first, warm, chunk = latents.split(CHUNK, dim=1)
    states, pixels = {}, {}
    for name, codec in paths.items():
        _, state = codec.decode(first, codec.empty())
        _, states[name] = codec.decode(warm, state)
    times: dict[str, list[float]] = {name: [] for name in paths}
    for _ in track(range(args.rounds), f"width {width}", transient=True):
        for name, codec in paths.items():
            start = time.perf_counter()
            pixels[name], _ = codec.decode(chunk, states[name])
            if args.device != "cpu":
                torch.cuda.synchronize()
            times[name].append(1e3 * (time.perf_counter() - start))
    row = {f"{name}_ms": statistics.median(spent) for name, spent in times.items()}
    # Neighbours in time see the same load of the machine, so ratios are taken round by round.
    for name in [name for name in paths if name != "plain"]:
        rounds = zip(times["plain"], times[name], strict=True)
        row[f"plain / {name}"] = statistics.median(a / b for a, b in rounds)
    gaps = [pixels[n] - pixels["plain"] for n in ("fast", "compiled") if n in pixels]
    row["largest_difference"] = max(gap.abs().max().item() for gap in gaps)
    row["memory_MB"] = sum(t.nbytes for t in states["fast"].values()) / 1e6
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[24])
    parser.add_argument("--size", type=int, nargs=2, default=[64, 96], help="height and width")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="also compile our path")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {width: measure(width, args) for width in args.widths}
    device = f"{platform.machine()}, {args.threads} threads"
    if args.device != "cpu":
        device = torch.cuda.get_device_name()
    table = Table(
        title=f"{CHUNK} latent frames at {args.size[0]} x {args.size[1]}, {args.dtype}, "
        f"torch {torch.__version__}, {device}"
    )
    columns = list(next(iter(rows.values())))
    for column in ("width", *columns):
        table.add_column(column, justify="right")
    for width, row in rows.items():
        numbers = [f"{v:.1e}" if "diff" in n else f"{v:.2f}" for n, v in row.items()]
        table.add_row(str(width), *numbers)
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
