"""Wan's VAE decoding a chunk along its paths, and two previews, in turns, and the paths' largest difference.

    python benchmarks/codec.py                       # a quarter-width VAE on the CPU, about a minute
    python benchmarks/codec.py --widths 96 --size 64 96 --rounds 3      # the real width, random weights
    python benchmarks/codec.py --widths 96 --size 480 832 --device cuda --dtype bfloat16 --compile

Weights are random, in the real architecture; only the VAE's width differs. A chunk is 3 latent frames (12 pixel
frames) of a stream that has begun. Paths: `plain` is diffusers' modules frame by frame, `fast` ours, `compiled` ours
compiled (--compile), `linear` and `tiny` are previews. `plain / X` are medians of ratios round by round; differences
are from plain, in pixels of [0, 1].
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import torch
from bound import MatmulRate, counted, milliseconds
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rows import PIXELS, PeakMemory, Row, device_name, module_bytes, print_rows, write

from lightning_adastate.codecs import Codec, PreviewCodec, TinyCodec, WanCodec, tiny_layers
from lightning_adastate.files import save_tensors

CHUNK = 3
TINY_WIDTHS = (256, 128, 64, 64)
EXACT = ("fast", "compiled")


def decoders(
    width: int,
    latent: tuple[int, int, int],
    device: torch.device,
    dtype: str,
    *,
    compiled: bool,
) -> dict[str, Codec]:
    """Return the paths to compare, with the same random weights, and previews."""
    # Not every machine has it, and what needs no VAE runs without.
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        AutoencoderKLWan(base_dim=width, z_dim=latent[0]).save_pretrained(folder)
        options = {"plain": {"path": "plain"}, "fast": {"path": "fast"}}
        if compiled:
            options["compiled"] = {"path": "fast", "compile_passes": "steady"}
        made: dict[str, Codec] = {
            name: WanCodec(folder, dtype=dtype, frames_per_pass=CHUNK, **option).to(device)
            for name, option in options.items()
        }
        made["tiny"] = _tiny(Path(folder) / "tiny.safetensors", latent[0], dtype).to(device)
    linear = PreviewCodec(made["fast"]).to(device)
    for weights in (linear.first_XP, linear.later_XP):
        torch.nn.init.normal_(weights, std=0.01)
    return {**made, "linear": linear}


def _tiny(file: Path, channels: int, dtype: str) -> TinyCodec:
    """Return the preview people have, at its size, with random weights."""
    half = tiny_layers.decoder(channels, TINY_WIDTHS, 3)
    tensors = {f"decoder.{name}": value for name, value in half.state_dict().items()}
    save_tensors(file, tensors)
    return TinyCodec(str(file), dtype=dtype)


@torch.no_grad()
def decode_flops(codec: Codec, latent: tuple[int, int, int]) -> float:
    """Count what a decoder computes for a chunk of a stream that has begun."""
    device = next(codec.parameters()).device
    latents = torch.randn(1, CHUNK, *latent, device=device)
    _, memory = codec.decode(latents, codec.empty())
    before = getattr(codec, "compile_passes", None)
    if before is not None:
        codec.compile_passes = "never"  # compiled products cannot be seen
    found = counted(lambda: codec.decode(latents, memory))
    if before is not None:
        codec.compile_passes = before
    return found


@torch.no_grad()
def measure_decoders(
    paths: dict[str, Codec],
    width: int,
    latent: tuple[int, int, int],
    rate: MatmulRate,
    rounds: int,
) -> tuple[list[Row], dict[str, float]]:
    """Decode the same chunks with every path in turns; return rows, and ratios and differences."""
    device, dtype = rate.device, str(rate.dtype).removeprefix("torch.")
    latents = torch.randn(1, 3 * CHUNK, *latent, device=device)
    first, warm, chunk = latents.split(CHUNK, dim=1)
    states, pixels, peaks, firsts = {}, {}, {}, {}
    for name, codec in paths.items():
        with PeakMemory(device, module_bytes(codec)) as memory:
            _, state = codec.decode(first, codec.empty())
            _, states[name] = codec.decode(warm, state)
            pixels[name], _ = codec.decode(chunk, states[name])
        peaks[name] = memory.megabytes
        firsts[name] = milliseconds(lambda c=codec: c.decode(first, c.empty()), device)
    times: dict[str, list[float]] = {name: [] for name in paths}
    for _ in track(range(rounds), f"VAE, width {width}", transient=True):
        rate.sample()
        for name, codec in paths.items():
            spent = milliseconds(lambda n=name, c=codec: c.decode(chunk, states[n]), device)
            times[name].append(spent)
    rows = [
        Row(
            model=f"Wan VAE {width}" if name in ("plain", *EXACT) else f"{name} preview",
            scope="VAE",
            path=name,
            device=device_name(device),
            dtype=dtype,
            attention=None,
            cached_frames=None,
            anchor=None,
            streams=1,
            ms=statistics.median(times[name]),
            frames=CHUNK * PIXELS,
            first_ms=firsts[name],
            peak_mb=peaks[name],
            bound_ms=rate.bound_ms(decode_flops(codec, latent)),
        )
        for name, codec in paths.items()
    ]
    own: dict[str, float] = {}
    # Neighbours in time see the same load of the machine, so ratios are taken round by round.
    for name in [name for name in paths if name != "plain"]:
        pairs = zip(times["plain"], times[name], strict=True)
        own[f"plain / {name}"] = statistics.median(a / b for a, b in pairs)
    gaps = [pixels[name] - pixels["plain"] for name in EXACT if name in pixels]
    own["largest difference"] = max(gap.abs().max().item() for gap in gaps)
    own["decoder's memory, MB"] = sum(t.nbytes for t in states["fast"].values()) / 2**20
    return rows, own


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[24])
    parser.add_argument("--size", type=int, nargs=2, default=[64, 96], help="height and width")
    parser.add_argument("--rounds", type=int, default=7)
    threads = int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="also compile our path")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    rate = MatmulRate(device, getattr(torch, args.dtype))
    latent = (16, args.size[0] // 8, args.size[1] // 8)
    rows: list[Row] = []
    found = {}
    for width in args.widths:
        paths = decoders(width, latent, device, args.dtype, compiled=args.compile)
        more, found[width] = measure_decoders(paths, width, latent, rate, args.rounds)
        rows += more
    print_rows(rows)
    table = Table(title=f"{CHUNK} latent frames at {args.size[0]} x {args.size[1]}, {args.dtype}")
    columns = list(next(iter(found.values())))
    for column in ("width", *columns):
        table.add_column(column, justify="right")
    for width, row in found.items():
        numbers = [f"{v:.1e}" if "diff" in n else f"{v:.2f}" for n, v in row.items()]
        table.add_row(str(width), *numbers)
    Console().print(table)
    write(args.json, rows, found)


if __name__ == "__main__":
    main()
