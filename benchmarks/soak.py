"""A long stream through `generate`: memory, descriptors, threads and the time of a chunk, from the first to the last.

    python benchmarks/soak.py --chunks 20000 --minutes 25 --output /tmp/soak

Prints what docs/long-streams.md shows. Whoever runs out of minutes is told how far it came.
"""

import argparse
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np

from lightning_adastate import Generation, generate, load_module
from lightning_adastate.codecs import Codec

SMALL = (
    "--model.backbone.num_layers=2",
    "--model.weights=null",
    "--model.schedule.steps=[1000, 500]",
)
PAGE = os.sysconf("SC_PAGE_SIZE")
WARM = 2000
"""Chunks before the slope is taken: allocators and caches fill first."""


class WatchedCodec(Codec):
    """Decodes with another codec, and notes what the process holds after each chunk."""

    def __init__(self, codec: Codec, deadline: float) -> None:
        super().__init__()
        self.codec = codec
        self.deadline = deadline
        self.latent_channels = codec.latent_channels
        self.spatial_stride = codec.spatial_stride
        self.temporal_stride = codec.temporal_stride
        self.rows = []

    def encode_next(self, video_BFCHW, state):
        return self.codec.encode_next(video_BFCHW, state)

    def decode(self, latents_BFCHW, state):
        held = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        opened = len(os.listdir("/proc/self/fd"))
        self.rows.append(
            (time.monotonic(), time.process_time(), held, opened, threading.active_count())
        )
        if time.monotonic() > self.deadline:
            signal.raise_signal(signal.SIGINT)
        return self.codec.decode(latents_BFCHW, state)


def report(rows):
    wall, cpu, held, opened, threads = (
        np.array(column, dtype=float) for column in zip(*rows, strict=True)
    )
    chunks = len(rows)
    warm = min(WARM, chunks // 2)
    slope, _ = np.polyfit(np.arange(warm, chunks), held[warm:], 1)
    took, worked = np.diff(wall), np.diff(cpu)
    early, late = slice(20, 520), slice(-500, None)
    print(f"chunks {chunks}, {wall[-1] - wall[0]:.0f} s")
    print(
        f"resident memory after {warm}: {held[warm] / 2**20:.1f} MiB, at the end {held[-1] / 2**20:.1f} MiB"
    )
    print(f"slope behind chunk {warm}: {slope:.0f} bytes per chunk")
    print(
        f"open descriptors: {opened[20]:.0f} at chunk 20, {opened[-1]:.0f} at the end, at most {opened[20:].max():.0f}"
    )
    print(f"threads: {threads[20]:.0f} at chunk 20, {threads[-1]:.0f} at the end")
    for name, part in (("wall", took), ("processor", worked)):
        first, last = np.median(part[early]), np.median(part[late])
        print(
            f"{name} time of a chunk: median {1e3 * first:.2f} ms of 20..520, {1e3 * last:.2f} ms of the last 500, ratio {last / first:.3f}"
        )
    p50, p99 = np.percentile(worked[20:], (50, 99))
    print(
        f"processor time of a chunk: p50 {1e3 * p50:.2f} ms, p99 {1e3 * p99:.2f} ms, ratio {p99 / p50:.2f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="toy/adastate")
    parser.add_argument(
        "--small", action="store_true", help="two layers, two steps, random weights"
    )
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--output", default="/tmp/soak")
    args = parser.parse_args()
    module = load_module(args.config, overrides=SMALL if args.small else [])
    module.codec = WatchedCodec(module.codec, time.monotonic() + 60.0 * args.minutes)
    folder = Path(args.output)
    files = {"output": str(folder / "soak.mp4"), "latents": str(folder / "soak.safetensors")}
    asked = {"num_chunks": args.chunks, "upscale": 1, "overwrite": True, **files}
    code = generate(module, Generation("drifting slowly west", **asked))
    print(f"exit code {code}")
    report(module.codec.rows)


if __name__ == "__main__":
    main()
