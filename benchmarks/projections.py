"""Queries, keys and values from three products, and from one with the joined weights: does fusing them pay here?

    python benchmarks/projections.py             # seconds
    python benchmarks/projections.py --device cuda --dtype bfloat16

Microseconds of the median call, the two in turns, for the live tokens and dims of the small, the medium and the 1.3B
model at 480 x 832: 4680 live tokens, 6240 with a state frame, a quarter of them on a CPU. `MB` is what the products
must read and write at least: the input three times or once.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from rows import write
from torch.nn.functional import linear

SIZES = {
    "small": (72, 128, 400),
    "medium": (180, 256, 200),
    "1.3B": (4680, 1536, 20),
    "1.3B, state": (6240, 1536, 20),
}


def microseconds(call, calls: int, device: str) -> float:
    """Median of single calls, the device waited for."""
    spent = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(1e6 * (time.perf_counter() - start))
    return statistics.median(spent)


@torch.no_grad()
def measure(
    tokens: int, dim: int, calls: int, rounds: int, like: torch.Tensor
) -> dict[str, float]:
    device = like.device.type
    x = like.new_empty(1, tokens, dim).normal_()
    weights = [like.new_empty(dim, dim).normal_() for _ in range(3)]
    biases = [like.new_empty(dim).normal_() for _ in range(3)]
    joined, bias = torch.cat(weights), torch.cat(biases)
    found: dict[str, list[float]] = {"three": [], "joined": []}
    for _ in range(rounds):
        three = microseconds(
            lambda: [linear(x, w, b) for w, b in zip(weights, biases, strict=True)], calls, device
        )
        found["three"].append(three)
        found["joined"].append(microseconds(lambda: linear(x, joined, bias), calls, device))
    row = {name: statistics.median(values) for name, values in found.items()}
    rest = 3 * dim * (dim + 1) + 3 * tokens * dim  # weights and biases in, results out
    return {
        "tokens": tokens,
        "dim": dim,
        **row,
        "three / joined": row["three"] / row["joined"],
        "flops": 6 * tokens * dim * dim,
        "three MB": (3 * tokens * dim + rest) * like.element_size() / 1e6,
        "joined MB": (tokens * dim + rest) * like.element_size() / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    like = torch.empty(0, dtype=getattr(torch, args.dtype), device=args.device)
    rows = {}
    for name, (tokens, dim, calls) in SIZES.items():
        count = tokens // 4 if args.device == "cpu" and "1.3B" in name else tokens
        row = rows[name] = measure(count, dim, calls, args.rounds, like)
        print(
            f"{name:11s} {count:5d} x {dim:4d}: three {row['three']:9.1f} us, joined {row['joined']:9.1f} us, "
            f"three / joined {row['three / joined']:.2f}, MB {row['three MB']:.1f} and {row['joined MB']:.1f}"
        )
    write(args.json, [], rows)


if __name__ == "__main__":
    main()
