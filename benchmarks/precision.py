"""What bfloat16 changes: one chunk from the same state, and whole streams, against float32.

    python benchmarks/precision.py                    # seconds, on the shipped toy generator
    python benchmarks/precision.py --chunks 42 --json out.json

Rows are streams of the toy generator with the same prompt and noise, weights and cache in bfloat16. `one
chunk` starts every chunk from the float32 stream's own state, so it is rounding alone; `stream` lets it add up.
Errors are of decoded pixels in [0, 1]: PSNR in dB, mean over prompts; `moved` is the root mean square change
from one frame to the next in float32, to compare with.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rows import write

from lightning_adastate import load_module
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import KV, StreamState

PROMPTS = ["drifting slowly west", "drifting east", "drifting quickly east", "drifting west"]


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def half(kv: KV) -> KV:
    return replace(
        kv, key_LBFTND=kv.key_LBFTND.bfloat16(), value_LBFTND=kv.value_LBFTND.bfloat16()
    )


def halved(state: StreamState, streamer: Streamer) -> StreamState:
    """The same state with keys and values in bfloat16."""
    blocks = tuple(half(block) for block in state.blocks)
    anchor = {name: half(kv) for name, kv in state.anchor.items()}
    return streamer.resume(replace(state, blocks=blocks, anchor=anchor))


@torch.no_grad()
def measure(anchor: str, chunks: int) -> dict[str, float]:
    module = load_module(
        "toy/adastate",
        weights="toy/generator.safetensors",
        overrides=[f"--model.anchor=anchors/{anchor}"],
    )
    codec, full = module.codec, module.streamer
    low = copy.deepcopy(full)
    low.backbone.bfloat16()
    state = module.open_stream(PROMPTS)
    other = halved(state, low)
    single, moved, last = [], [], None
    for _ in range(chunks):
        exact = full.step(state)
        rounded = low.step(halved(state, low))
        apart = low.step(other)
        video = codec.decode(exact.latents_BFCHW, codec.empty())[0]
        single.append(psnr(codec.decode(rounded.latents_BFCHW, codec.empty())[0], video))
        last = psnr(codec.decode(apart.latents_BFCHW, codec.empty())[0], video)
        moved.append(float((video[:, 1:] - video[:, :-1]).square().mean()))
        state, other = exact.state, apart.state
    mean = torch.tensor(moved).mean()
    return {
        "one chunk, dB": sum(single) / len(single),
        "one chunk, worst dB": min(single),
        "stream at the end, dB": last,
        "moved, dB": float(-10 * mean.log10()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=21, help="chunks per stream")
    parser.add_argument("--anchors", nargs="+", default=["none", "static", "ema", "adaptive"])
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    rows = {anchor: measure(anchor, args.chunks) for anchor in args.anchors}
    table = Table(title=f"bfloat16 against float32, toy generator, {args.chunks} chunks, CPU")
    table.add_column("anchor")
    for column in next(iter(rows.values())):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.1f}" for value in row.values()))
    Console().print(table)
    write(args.json, [], rows)


if __name__ == "__main__":
    main()
