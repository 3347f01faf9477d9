"""What a chunk of a full window allocates and how many operations it is: eager, compiled and recorded.

    python benchmarks/allocations.py                 # a minute on one core, most of it compiling
    python benchmarks/allocations.py --device cuda --model 1.3B --modes eager compiled graphs compiled+graphs

Each way makes the same chunk from the same state. Columns: calls of PyTorch's operations, allocations and their MB,
in one chunk and in the next (the same: memory does not grow), the most held at a time above what the state holds, and
the largest difference of the latents from eager, relative to their spread. On a GPU allocations are those of its
memory, and operations are launched kernels, those of a recorded graph one by one.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from models import (
    ANCHORS,
    MODES,
    PLAIN,
    SIZES,
    Variant,
    backbone,
    forget_compiled,
    prompt,
    streamer_of,
)
from rich.console import Console
from rich.table import Table
from rows import device_name, write
from torch.profiler import DeviceType, ProfilerActivity, profile

from lightning_adastate.streaming.buffers import StreamBuffers
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import StreamState


class Found(NamedTuple):
    """Counts of one chunk."""

    operations: int
    allocations: int
    allocated_mb: float
    peak_mb: float


def counts(call, device: torch.device) -> Found:
    """Profile a call."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities, profile_memory=True) as profiler:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
    events = profiler.profiler.kineto_results.events()
    wanted = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    here = [event for event in events if event.device_type() == wanted]
    memory = [event for event in here if event.name() == "[memory]"]
    names = [event.name() for event in here if event.name() != "[memory]"]
    if device.type == "cpu":
        names = [name for name in names if name.startswith("aten::")]
    now = peak = 0
    for event in sorted(memory, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    taken = [event.nbytes() for event in memory if event.nbytes() > 0]
    return Found(len(names), len(taken), sum(taken) / 2**20, peak / 2**20)


class Way:
    """A stream that has its window full, run in one way."""

    def __init__(self, streamer: Streamer, variant: Variant) -> None:
        self.streamer, self.variant, self.buffers = streamer, variant, StreamBuffers()

    def step(self, state: StreamState) -> tuple[torch.Tensor, StreamState]:
        """Make the next chunk."""
        with torch.no_grad():
            chunk = self.streamer.step(state, buffers=self.buffers)
        return chunk.latents_BFCHW, chunk.state

    def warm(self, state: StreamState, chunks: int) -> StreamState:
        """Make so many chunks."""
        self.variant.choose(self.streamer.backbone)
        for _ in range(chunks):
            _, state = self.step(state)
        return state


def measure(
    model: str, cached_frames: int, anchor: str, modes: list[str], device: torch.device, dtype: str
) -> dict[str, dict[str, float]]:
    """Return the counts of each way, and its largest difference from the first."""
    size = SIZES[model]
    streamer = streamer_of(backbone(size, device, getattr(torch, dtype)), cached_frames, anchor)
    forget_compiled()
    warm = cached_frames // streamer.schedule.chunk_frames + 4
    start = streamer.start(prompt(size, device), latent_shape=size.latent)
    full = Way(streamer, Variant("eager")).warm(start, warm)
    expected, found = None, {}
    for mode in modes:
        way = Way(streamer, Variant(mode))
        way.warm(full, 3)  # allocates its memory, compiles, records
        result = way.step(full)
        expected = result[0] if expected is None else expected
        seen = counts(lambda way=way: way.step(full), device)
        # The state after a chunk replaces the one before, so the next one is the same work again.
        state = result[1]
        again = counts(lambda way=way, state=state: way.step(state), device)
        gap = (result[0] - expected).abs().max() / expected.std()
        found[mode] = {
            **seen._asdict(),
            "next_operations": again.operations,
            "next_allocations": again.allocations,
            "difference": gap.item(),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add(
        "--model",
        choices=[name for name in SIZES if name != "14B"],
        help="small on the CPU, else 1.3B",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="float32 on the CPU, else bfloat16")
    add("--cached-frames", type=int, default=9)
    add("--anchor", choices=ANCHORS, default="state")
    add(
        "--modes",
        nargs="+",
        choices=[m for m in MODES if m != PLAIN],
        default=["eager", "compiled"],
    )
    add("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    device = torch.device(args.device)
    model = args.model or ("small" if args.device == "cpu" else "1.3B")
    dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")
    found = measure(model, args.cached_frames, args.anchor, args.modes, device, dtype)
    table = Table(title=f"one chunk, {model}, {args.cached_frames} cached, {device_name(device)}")
    columns = ("operations", "next", "allocations", "next", "MB", "most at a time, MB")
    for column in ("mode", *columns, "difference"):
        table.add_column(column, justify="left" if column == "mode" else "right")
    for mode, row in found.items():
        whole = ("operations", "next_operations", "allocations", "next_allocations")
        sizes = (f"{row['allocated_mb']:.1f}", f"{row['peak_mb']:.1f}")
        table.add_row(
            mode, *(str(row[name]) for name in whole), *sizes, f"{row['difference']:.1e}"
        )
    console = Console()
    Console(width=max(console.width, 110)).print(table)
    write(args.json, [], found)


if __name__ == "__main__":
    main()
