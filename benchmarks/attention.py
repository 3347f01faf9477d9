"""Attention kernels on a stream's sizes, and under the mask of parallel training, in turns.

    python benchmarks/attention.py                                        # tiny, on the CPU, seconds
    python benchmarks/attention.py --device cuda                          # 1560 tokens per frame, 12 heads, bfloat16
    python benchmarks/attention.py --device cuda --kernels sdpa cudnn --keys 12

A chunk's 3 frames of queries look at 6, 9, ... frames of keys, heads of 128. Then a clip whose frames see their own
chunk and all before: a dense mask of tokens (`sdpa`) and blocks (`flex`). TFLOP/s counts what is visible; `of bound`
is against a large square product in the same run; `error` is the largest difference from float64 on every
`--check`-th query. Kernels that cannot run here are listed with the reason.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from bound import MatmulRate, milliseconds
from models import kernels_here
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rows import Row, device_name, write
from torch import Tensor

from lightning_adastate.backbones.attention import KERNELS, attend, attention_mask
from lightning_adastate.backbones.masks import diffusion_forcing_mask, token_mask

CHUNK, HEAD_DIM = 3, 128
MASKED = ("sdpa", "flex")
Measured = tuple[Row, dict[str, object]]


def exact(query: Tensor, key: Tensor, value: Tensor, mask_SK: Tensor | None) -> Tensor:
    """Return attention in float64, ``[B, S, N, D]``."""
    query, key, value = (part.double().transpose(1, 2) for part in (query, key, value))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask_SK is not None:
        scores = scores.masked_fill(~mask_SK, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def timed(
    calls: dict[str, Callable[[], Tensor]], rate: MatmulRate, rounds: int, title: str
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the median milliseconds of each call, in turns, and what it gives."""
    made = {name: call() for name, call in calls.items()}  # compiles, warms up
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in track(range(rounds), title, transient=True):
        rate.sample()
        for name, call in calls.items():
            times[name].append(milliseconds(call, rate.device))
    return {name: statistics.median(spent) for name, spent in times.items()}, made


class Sizes:
    """Random queries, keys and values of so many frames."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device, self.dtype = torch.device(args.device), getattr(torch, args.dtype)

    def frames(self, number: int) -> Tensor:
        """Return ``[1, S, N, D]``."""
        shape = (1, number * self.args.tokens, self.args.heads, HEAD_DIM)
        return torch.randn(shape, device=self.device, dtype=self.dtype)

    def row(self, what: str, kernel: str, ms: float, cached: int | None, bound: float) -> Row:
        """Return the row that all benchmarks have."""
        return Row(
            model=f"{self.args.tokens} tokens, {self.args.heads} heads",
            scope="attention",
            path=what,
            device=device_name(self.device),
            dtype=self.args.dtype,
            attention=kernel,
            cached_frames=cached,
            anchor=None,
            streams=1,
            ms=ms,
            bound_ms=bound,
        )

    def error(
        self, made: Tensor, parts: tuple[Tensor, Tensor, Tensor], mask_SK: Tensor | None
    ) -> float:
        """Return the largest difference from float64 on some of the queries."""
        step = self.args.check
        query, key, value = parts
        seen = None if mask_SK is None else mask_SK[::step]
        wanted = exact(query[:, ::step], key, value, seen)
        return (made[:, ::step].double() - wanted).abs().max().item()


@torch.no_grad()
def measure_stream(
    sizes: Sizes, kernels: list[str], keys: int, rate: MatmulRate
) -> list[Measured]:
    """Time a chunk's queries against so many frames of keys."""
    parts = (sizes.frames(CHUNK), sizes.frames(keys), sizes.frames(keys))
    calls = {
        name: lambda name=name: attend(*parts, mask=None, kernels=(name,)) for name in kernels
    }
    ms, made = timed(calls, rate, sizes.args.rounds, f"{keys} frames of keys")
    pairs = parts[0].shape[1] * parts[1].shape[1]
    return finish(sizes, "stream", ms, made, parts, None, keys, pairs, rate)


@torch.no_grad()
def measure_masked(sizes: Sizes, frames: int, rate: MatmulRate) -> list[Measured]:
    """Time a clip under the causal mask of parallel training."""
    parts = (sizes.frames(frames), sizes.frames(frames), sizes.frames(frames))
    tokens, mask_FF = sizes.args.tokens, diffusion_forcing_mask([CHUNK] * (frames // CHUNK))
    masks = {n: attention_mask(mask_FF, tokens, sizes.device, (n,)) for n in MASKED}
    calls = {
        name: lambda name=name: attend(*parts, mask=masks[name], kernels=(name,))
        for name in MASKED
        if KERNELS[name].missing() is None
    }
    ms, made = timed(calls, rate, sizes.args.rounds, "causal mask")
    pairs = int(mask_FF.sum()) * tokens**2
    dense = token_mask(mask_FF.to(sizes.device), tokens)
    return finish(sizes, "causal mask", ms, made, parts, dense, frames, pairs, rate)


def finish(
    sizes: Sizes,
    what: str,
    ms: dict[str, float],
    made: dict[str, Tensor],
    parts: tuple[Tensor, Tensor, Tensor],
    mask_SK: Tensor | None,
    keys: int,
    pairs: int,
    rate: MatmulRate,
) -> list[Measured]:
    """Return the shared row of each kernel, and our own with TFLOP/s and the error."""
    flops = 4 * pairs * sizes.args.heads * HEAD_DIM
    cached = keys - CHUNK if mask_SK is None else None
    found = []
    for name, spent in ms.items():
        row = sizes.row(what, name, spent, cached, rate.bound_ms(flops))
        own = {"what": what, "kernel": name, "keys": keys, "ms": spent, "share": row.share}
        error = sizes.error(made[name], parts, mask_SK)
        found.append((row, own | {"tflops": flops / spent / 1e9, "error": error}))
    return found


def measure(args: argparse.Namespace) -> tuple[list[Row], list[dict[str, object]]]:
    """Return the shared rows and the script's own."""
    sizes = Sizes(args)
    kernels = args.kernels or kernels_here(sizes.device, sizes.dtype)
    rate = MatmulRate(sizes.device, sizes.dtype)
    found = []
    for keys in args.keys:
        found += measure_stream(sizes, kernels, keys, rate)
    if args.masked:
        found += measure_masked(sizes, args.masked, rate)
    return [row for row, _ in found], [own for _, own in found]


def show(own: list[dict[str, object]], title: str) -> None:
    table = Table(title=title)
    for column in ("what", "keys", "kernel", "ms", "TFLOP/s", "of bound", "error"):
        table.add_column(column, justify="left" if column in ("what", "kernel") else "right")
    for row in own:
        numbers = (f"{row['ms']:.2f}", f"{row['tflops']:.3f}", f"{row['share']:.0%}")
        table.add_row(
            row["what"], str(row["keys"]), row["kernel"], *numbers, f"{row['error']:.1e}"
        )
    Console().print(table)
    for name, kernel in KERNELS.items():
        if (reason := kernel.missing()) is not None:
            print(f"{name}: not run, {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=("float32", "bfloat16"), help="float32 on the CPU, else bfloat16")
    add("--tokens", type=int, help="tokens per frame: 24 on the CPU, else 1560")
    add("--heads", type=int, help="2 on the CPU, else 12")
    add("--kernels", nargs="+", choices=KERNELS, help="all that run here")
    add("--keys", type=int, nargs="+", default=[6, 9, 12, 15, 24], help="frames of keys")
    add("--masked", type=int, default=21, help="frames of the masked clip; 0 leaves it out")
    add("--check", type=int, help="compare every so many queries: all on the CPU, else 97")
    add("--rounds", type=int, default=20)
    add("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    on_cpu = args.device == "cpu"
    args.dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
    args.tokens = args.tokens or (24 if on_cpu else 1560)
    args.heads = args.heads or (2 if on_cpu else 12)
    args.check = args.check or (1 if on_cpu else 97)
    rows, own = measure(args)
    show(own, f"heads of {HEAD_DIM}, {device_name(torch.device(args.device))}, {args.dtype}")
    write(args.json, rows, {"attention": own})


if __name__ == "__main__":
    main()
