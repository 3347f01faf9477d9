"""Wan's transformer and VAE streamed: network alone, VAE alone and end to end, beside the bound and the goals.

    python benchmarks/wan.py                                  # a small network on the CPU, minutes
    python benchmarks/wan.py --device cuda                    # 1.3B at 480 x 832 in bfloat16
    python benchmarks/wan.py --device cuda --windows 9 --anchors state --modes compiled --parts dit

Weights are random, made on the device. A chunk is 3 latent frames (12 pixel frames) in 4 denoise passes and a clean
pass, behind `--windows` cached frames, with AdaState's state frame and without. Every mode runs with the first of
`--attention`, and the last mode with the others, in turns. The device is waited for at the end of each chunk. `first
ms`: from the embedded prompt to the first chunk, in a warm process. End to end decodes as well, along three paths:
`exact` (the VAE), `linear` and `tiny` previews; `overlapped` denoises the next chunk meanwhile. `--late N` compares
chunk 20 with chunk N. `plain` is our own naive stream of the same window (benchmarks/plain.py), not public code.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from bound import MatmulRate, chunk_flops, milliseconds
from cases import Case, Setup, Shown, in_turns, warm_chunks
from codec import decode_flops, decoders, measure_decoders
from goals import print_goals
from models import (
    ANCHORS,
    CHUNK,
    MODES,
    PLAIN,
    SIZES,
    Variant,
    backbone,
    forget_compiled,
    kernel_of,
    kernels_here,
    prompt,
    streamer_of,
)
from plain import PlainStream
from rows import PIXELS, Row, module_bytes, print_rows, write

from lightning_adastate.codecs import Codec
from lightning_adastate.streaming.overlapped import stream_overlapped
from lightning_adastate.streaming.pipeline import VideoChunk

EARLY = 20


def measure_network(
    setup: Setup, cached_frames: int, anchor: str, variants: list[Variant]
) -> list[Row]:
    """Time the network alone."""
    streamer = streamer_of(setup.model, cached_frames, anchor)
    forget_compiled()

    def begin() -> Iterator[object]:
        return streamer.stream(setup.start(streamer))

    def plainly() -> Iterator[object]:
        window = PlainStream(setup.model, streamer.schedule, 0, cached_frames + CHUNK)
        return window.stream(setup.text_BSD, setup.size.latent)

    warm = warm_chunks(cached_frames)
    cases = {}
    for variant in variants:
        if variant.mode != PLAIN:
            cases[variant] = Case(setup, variant, begin, warm)
        elif anchor == "none":  # what it can do
            cases[variant] = Case(setup, variant, plainly, warm)
    in_turns(setup, cases, f"{cached_frames} cached, {anchor}")
    bound = setup.rate.bound_ms(
        chunk_flops(streamer, setup.size.latent, streams=len(setup.text_BSD))
    )
    return [
        setup.row(
            "DiT",
            case.path,
            statistics.median(case.times),
            attention=variant.attention,
            cached_frames=cached_frames,
            anchor=anchor,
            first_ms=case.first_ms,
            peak_mb=case.peak_mb,
            bound_ms=bound,
        )
        for variant, case in cases.items()
    ]


def measure_late(
    setup: Setup, cached_frames: int, anchor: str, variant: Variant, late: int
) -> list[Row]:
    """Time chunks behind number `late`, in turns with those of a fresh stream behind number 20."""
    streamer = streamer_of(setup.model, cached_frames, anchor)
    forget_compiled()
    cases = {}
    for number in (late, EARLY):
        cases[number] = Case(
            setup, variant, lambda: streamer.stream(setup.start(streamer)), number
        )
    in_turns(setup, cases, f"chunk {EARLY} and {late}")
    return [
        setup.row(
            "DiT",
            f"{case.path}, chunk {number}",
            statistics.median(case.times),
            attention=variant.attention,
            cached_frames=cached_frames,
            anchor=anchor,
        )
        for number, case in sorted(cases.items())
    ]


def measure_whole(
    setup: Setup,
    cached_frames: int,
    anchor: str,
    variant: Variant,
    codecs: Mapping[str, Codec],
    videos: Path | None = None,
) -> list[Row]:
    """Time network and decoder together, in turn for every decoder, then overlapped one by one.

    With a folder for `videos` also overlapped and written to a file, which is all that `generate` does.
    """
    streamer = streamer_of(setup.model, cached_frames, anchor)
    forget_compiled()
    warm, rows = warm_chunks(cached_frames), []
    cases = {}
    for name, codec in codecs.items():
        shown = Shown(streamer, codec, setup.device)
        cases[name] = Case(
            setup,
            variant,
            lambda shown=shown: shown.stream(setup.start(streamer)),
            warm,
            module_bytes(codec),
        )
    in_turns(setup, cases, f"end to end, {cached_frames} cached, {anchor}")
    work = chunk_flops(streamer, setup.size.latent, streams=len(setup.text_BSD))
    for name, codec in codecs.items():
        bound = setup.rate.bound_ms(
            work + len(setup.text_BSD) * decode_flops(codec, setup.size.latent)
        )
        same = {
            "attention": variant.attention,
            "cached_frames": cached_frames,
            "anchor": anchor,
            "bound_ms": bound,
        }
        times = {"": statistics.median(cases[name].times)}
        shown = Shown(streamer, codec, setup.device)
        times[", overlapped"] = overlapped(setup, shown, warm)
        if videos is not None:
            file = videos / f"{anchor}-{name}.mp4"
            times[", overlapped, written"] = overlapped(setup, shown, warm, file)
        for how, ms in times.items():
            measured = {} if how else {"first_ms": cases[name].first_ms}
            peak = {} if how else {"peak_mb": cases[name].peak_mb}
            path = f"{cases[name].path}, {name}{how}"
            rows.append(setup.row("end to end", path, ms, **same, **measured, **peak))
    return rows


def overlapped(setup: Setup, shown: Shown, warm: int, file: Path | None = None) -> float:
    """Return the milliseconds per chunk of a span: single chunks cannot be told apart."""
    state = setup.start(shown.streamer)
    chunks = stream_overlapped(shown, state, warm + setup.chunks + 1)
    with writing(file) as write_chunk:
        for _ in range(warm):
            write_chunk(next(chunks))

        def span() -> None:
            for made in itertools.islice(chunks, setup.chunks):
                write_chunk(made)

        # One chunk is at work when the span begins and one when it ends.
        spent = milliseconds(span, setup.device)
    chunks.close()
    return spent / setup.chunks


@contextmanager
def writing(file: Path | None) -> Iterator[Callable[[VideoChunk], None]]:
    """Give what writes a chunk's pictures behind those before; without a file nothing is written."""
    if file is None:
        yield lambda made: None
        return
    from lightning_adastate.media.video import VideoWriter  # needs PyAV, and the rest does not

    with VideoWriter(file, chunk_frames=CHUNK * PIXELS) as writer:
        yield lambda made: writer.append(made.video_BFCHW[0])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--model", choices=SIZES, help="small on the CPU, else 1.3B")
    add("--dtype", choices=("float32", "bfloat16"), help="float32 on the CPU, else bfloat16")
    add("--windows", type=int, nargs="+", default=[3, 6, 9, 21], help="cached frames")
    add("--whole-windows", type=int, nargs="+", default=[6], help="the same, end to end")
    add("--anchors", nargs="+", choices=ANCHORS, default=list(ANCHORS))
    add("--modes", nargs="+", choices=MODES, default=["plain", "eager", "compiled"])
    add("--attention", nargs="+", help="kernels; all that run here")
    add("--parts", nargs="+", choices=("dit", "vae", "whole"), default=["dit", "vae", "whole"])
    add("--streams", type=int, default=1, help="prompts in a batch")
    add("--chunks", type=int, default=10, help="chunks to time per row")
    add("--late", type=int, default=0, help=f"compare chunk {EARLY} with this one; 0 does not")
    add("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    on_cpu = args.device == "cpu"
    args.model = args.model or ("small" if on_cpu else "1.3B")
    if on_cpu and args.model == "14B":
        parser.error("14B takes 57 GB on a CPU; use --device cuda")
    args.dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
    return args


def measure(args: argparse.Namespace) -> list[Row]:
    """Make all rows that were asked for."""
    device, dtype, size = torch.device(args.device), getattr(torch, args.dtype), SIZES[args.model]
    kernels = kernels_here(device, dtype)
    if args.attention:
        kernels = [kernel_of(choice, device, dtype) for choice in args.attention]
    rate = MatmulRate(device, dtype)
    model = backbone(size, device, dtype)
    text_BSD = prompt(size, device, args.streams)
    setup = Setup(args.model, size, model, text_BSD, args.dtype, rate, args.chunks)
    variants = [Variant(mode, kernels[0]) for mode in args.modes]
    if args.modes[-1] != PLAIN:
        variants += [Variant(args.modes[-1], kernel) for kernel in kernels[1:]]
    best, rows = Variant(args.modes[-1], kernels[0]), []
    if "dit" in args.parts:
        for cached, anchor in itertools.product(args.windows, args.anchors):
            rows += measure_network(setup, cached, anchor, variants)
    if args.late:
        rows += measure_late(setup, args.windows[0], args.anchors[-1], best, args.late)
    if {"vae", "whole"} & set(args.parts):
        compiled = "compiled" in best.mode
        paths = decoders(size.vae_width, size.latent, device, args.dtype, compiled=compiled)
        if "vae" in args.parts:
            rows += measure_decoders(paths, size.vae_width, size.latent, rate, args.chunks)[0]
        if "whole" in args.parts:
            exact = paths["compiled" if compiled else "fast"]
            shown = {"exact": exact, "linear": paths["linear"], "tiny": paths["tiny"]}
            for cached, anchor in itertools.product(args.whole_windows, args.anchors):
                rows += measure_whole(setup, cached, anchor, best, shown)
    return rows


def main() -> None:
    args = arguments()
    rows = measure(args)
    print_rows(rows)
    found = print_goals(rows)
    write(args.json, rows, {"goals": found})


if __name__ == "__main__":
    main()
