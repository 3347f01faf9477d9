"""What a steady chunk computes, launches and moves, counted on tensors without storage; nothing is timed.

    python benchmarks/traffic.py                                        # 1.3B at 480 x 832 in bfloat16, seconds
    PYTHONPATH=/another/tree python benchmarks/traffic.py --json x.json  # of another tree

Of each pass kind and of the whole chunk: TFLOP of matrix products and attention; `kernels`, the operations of PyTorch
that are no views, each a launch on a GPU that runs eagerly; GB that they read and write, attention's scores left out.
`window`: what is done once per chunk beside the passes, mostly the rotated window.
"""

import argparse
import math
from collections import defaultdict
from pathlib import Path

import torch
from models import SIZES, backbone, prompt, streamer_of
from rows import write
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_adastate.backbones import wan_block
from lightning_adastate.backbones.attention import KERNELS, Kernel
from lightning_adastate.streaming.buffers import StreamBuffers

META = torch.device("meta")


class Counts(TorchDispatchMode):
    """Kernels and bytes, by what is at work."""

    def __init__(self) -> None:
        super().__init__()
        self.doing = "window"
        self.kernels: dict[str, int] = defaultdict(int)
        self.bytes: dict[str, int] = defaultdict(int)
        self.flops: dict[str, float] = defaultdict(float)

    def add(self, tensors, flops: float = 0.0) -> None:
        """Note one kernel that reads and writes these."""
        self.kernels[self.doing] += 1
        self.bytes[self.doing] += sum(_read(tensor) for tensor in tensors)
        self.flops[self.doing] += flops

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = out if isinstance(out, tuple | list) else (out,)
        made = [each for each in made if isinstance(each, torch.Tensor)]
        if func.is_view or not made or "empty" in func.name() or "detach" in func.name():
            return out
        if not any(each.device == META for each in made):
            return out  # the noise and the tables of the host
        flat = torch.utils._pytree.tree_leaves(
            (args, {k: v for k, v in kwargs.items() if k != "out"})
        )
        read = [each for each in flat if isinstance(each, torch.Tensor)]
        if "copy_" in func.name() or "fill_" in func.name():
            read = read[1:]  # what is overwritten is not read
        flops = 0.0
        if func.name().startswith(("aten::addmm", "aten::mm")):
            left, right = read[-2:]
            flops = 2.0 * left.shape[0] * left.shape[1] * right.shape[1]
        elif "convolution" in func.name():
            flops = 2.0 * made[0].numel() * math.prod(read[1].shape[1:])
        self.add([*read, *made], flops)
        return out


def _read(tensor: torch.Tensor) -> int:
    """Return the bytes of the elements that are there: broadcast ones count once."""
    sizes = (n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(sizes) * tensor.element_size()


class CountedAttention(Kernel):
    """One kernel that computes nothing."""

    def __init__(self) -> None:
        self.counts: Counts | None = None

    def takes(self, query, mask) -> bool:
        """Take everything."""
        return True

    def run(self, query, key, value, mask):
        """Return memory of the result's shape."""
        out = torch.empty_like(query)
        if self.counts is not None:
            batch, queries, heads, width = query.shape
            flops = 4.0 * batch * heads * queries * key.shape[1] * width
            self.counts.add((query, key, value, out), flops)
        return out


def measure(
    model: str, cached: int, anchor: str, dtype: torch.dtype
) -> dict[str, dict[str, float]]:
    """Count a chunk of a full window."""
    size = SIZES[model]
    network = backbone(size, META, dtype)
    kernel = KERNELS["counted"] = CountedAttention()
    for part in network.modules():
        if isinstance(part, wan_block.WanAttention):
            part.kernels = ("counted",)
    streamer = streamer_of(network, cached, anchor)
    state, buffers = streamer.start(prompt(size, META), latent_shape=size.latent), StreamBuffers()
    counts = Counts()

    def begin(module, args, named) -> None:
        counts.doing = "clean pass" if named["return_kv"] else "denoise passes"

    def end(module, args, out) -> None:
        counts.doing = "window"

    network.register_forward_pre_hook(begin, with_kwargs=True)
    network.register_forward_hook(end)
    with torch.no_grad():
        for _ in range(cached // 3 + 3):
            state = streamer.step(state, buffers=buffers).state
        kernel.counts = counts
        with counts:
            streamer.step(state, buffers=buffers)
    del KERNELS["counted"]
    found = {
        name: {
            "TFLOP": counts.flops[name] / 1e12,
            "kernels": counts.kernels[name],
            "GB": counts.bytes[name] / 1e9,
        }
        for name in ("denoise passes", "clean pass", "window")
    }
    keys = ("TFLOP", "kernels", "GB")
    found["chunk"] = {key: sum(part[key] for part in found.values()) for key in keys}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=SIZES, default="1.3B")
    parser.add_argument("--windows", type=int, nargs="+", default=[3, 9], help="cached frames")
    parser.add_argument("--anchor", choices=("none", "state"), default="state")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    own = {}
    for cached in args.windows:
        found = own[cached] = measure(args.model, cached, args.anchor, getattr(torch, args.dtype))
        for name, row in found.items():
            print(
                f"{args.model}, {cached} cached, {args.anchor}: {name:14s} {row['TFLOP']:8.3f} TFLOP, "
                f"{row['kernels']:5d} kernels, {row['GB']:8.2f} GB"
            )
    write(args.json, [], own)


if __name__ == "__main__":
    main()
