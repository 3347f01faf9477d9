"""Step 1: what the machine has, the tests marked `gpu`, and the kernels a chunk is made of."""

# Shapes: B batch, S query tokens, K key tokens, N heads, D head dim.

import statistics
import subprocess
import sys

import torch
from attention import Sizes, exact
from bound import MatmulRate, milliseconds
from models import kernels_here
from projections import measure as measure_products
from rows import ROOT, Row, device_name
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from lightning_adastate.backbones.attention import KERNELS, attend

LIVE = 4
"""Live frames of a chunk with a state frame."""
KEYS = (8, 14)
"""Frames it looks at: an anchor frame, 3 or 9 cached ones, and its own."""
ROUNDS = 10


def kernel_parts(scale, folder):
    """Return step 1."""
    del folder
    tokens = 6 if scale.is_small else 1560
    dim, heads = (64, 2) if scale.is_small else (1536, 12)
    return {
        "versions": lambda: ([], versions()),
        "products": lambda: ([], products(scale, tokens, dim)),
        **{
            f"attention, {keys} frames": lambda keys=keys: attention(scale, tokens, heads, keys)
            for keys in KEYS
        },
        "gpu tests": lambda: ([], gpu_tests(scale.is_small)),
    }


def versions() -> dict[str, object]:
    """Name what numbers depend on beside what every JSON holds."""
    found = {"cudnn": torch.backends.cudnn.version()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "memory GiB": card.total_memory / 2**30}
        found["processors"] = card.multi_processor_count
    missing = {name: kernel.missing() for name, kernel in KERNELS.items()}
    return found | {"attention kernels": missing}


def products(scale, tokens: int, dim: int) -> dict[str, object]:
    """Time q, k and v apart and joined, for the live tokens without and with a state frame."""
    like = torch.empty(0, device=scale.device, dtype=getattr(torch, scale.dtype))
    made = {}
    for frames in (LIVE - 1, LIVE):
        row = measure_products(frames * tokens, dim, 5 if scale.is_small else 50, 3, like)
        rates = {f"{how} TFLOP/s": row["flops"] / row[how] / 1e6 for how in ("three", "joined")}
        made[f"{frames * tokens} x {dim}"] = row | rates
    return made


def attention(scale, tokens: int, heads: int, keys: int) -> tuple[list[Row], dict[str, object]]:
    """Time every kernel on a chunk's queries, in turns, and say which one SDPA takes by itself."""
    sizes = Sizes(_Arguments(scale, tokens, heads))
    query, key, value = (sizes.frames(frames) for frames in (LIVE, keys, keys))
    names = [name for name in kernels_here(scale.device, sizes.dtype) if name != "flex"]
    calls = {name: lambda name=name: attend(query, key, value, kernels=(name,)) for name in names}
    if scale.device.type == "cuda":
        calls["sdpa held to flash 2"] = lambda: _held(query, key, value)
    rate = MatmulRate(scale.device, sizes.dtype)
    made = {name: call() for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        rate.sample()
        for name, call in calls.items():
            times[name].append(milliseconds(call, scale.device))
    flops = 4 * query.shape[1] * key.shape[1] * query.shape[2] * query.shape[3]
    some = query[:, :: sizes.args.check]
    wanted = exact(some, key, value, None)
    rows, own = [], {"sdpa runs": heaviest(calls["sdpa"], scale.device, 3)}
    for name, spent in times.items():
        ms = statistics.median(spent)
        rows.append(
            Row(
                model=f"{tokens} tokens, {heads} heads, {LIVE} live and {keys} key frames",
                scope="attention",
                path=name,
                device=device_name(scale.device),
                dtype=scale.dtype,
                attention=name,
                cached_frames=keys - LIVE - 1,
                anchor="state",
                streams=1,
                ms=ms,
                bound_ms=rate.bound_ms(flops),
            )
        )
        gap = made[name][:, :: sizes.args.check].double() - wanted
        own[name] = {"tflops": flops / ms / 1e9, "error": gap.abs().max().item()}
    return rows, own


class _Arguments:
    """What `attention.Sizes` reads."""

    def __init__(self, scale, tokens: int, heads: int) -> None:
        self.device, self.dtype = str(scale.device), scale.dtype
        self.tokens, self.heads = tokens, heads
        self.check = 1 if scale.is_small else 97


def _held(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Run PyTorch's own FlashAttention 2."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        parts = (part.transpose(1, 2) for part in (query, key, value))
        return scaled_dot_product_attention(*parts).transpose(1, 2)


def heaviest(call, device: torch.device, count: int) -> dict[str, float]:
    """Return the milliseconds of the kernels (on a CPU: operations) that take most of a call."""
    on_cuda = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU
    call()
    with profile(activities=[activity]) as profiler:
        call()
        if on_cuda:
            torch.cuda.synchronize()
    spent = {
        event.key: (event.self_device_time_total if on_cuda else event.self_cpu_time_total) / 1e3
        for event in profiler.key_averages()
    }
    order = sorted(spent, key=lambda name: -spent[name])[:count]
    return {name: spent[name] for name in order}


def gpu_tests(is_small: bool) -> dict[str, object]:
    """Run the tests marked `gpu`, only from files that have any: others may need what is not there."""
    files = [
        str(file)
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.gpu" in file.read_text()
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors"]
    command += ["--collect-only", files[0]] if is_small else files
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=240, cwd=ROOT
    )
    lines = done.stdout.splitlines()
    return {"exit code": done.returncode, "end": lines[-15:], "files": len(files)}
