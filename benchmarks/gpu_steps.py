"""One step of what a GPU can show, as `gpu_steps.sh` calls it: named parts one after the other, one JSON.

    python benchmarks/gpu_steps.py 2 --out gpu_results
    python benchmarks/gpu_steps.py 2 --small          # toy size on the CPU: that it runs, nothing about a GPU

The JSON is written anew after every part, so what is cut keeps the rows it has. A part that fails, or for which no
time is left, is named under `left_out` with the reason; the exit code is then 1.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from bound import MatmulRate
from cases import Setup
from gpu_decoder import decoder_parts
from gpu_kernels import kernel_parts
from gpu_late import late_parts
from gpu_training import training_parts
from models import SIZES, Variant, backbone, kernel_of, prompt
from rows import Row, print_rows, write
from wan import measure_network, measure_whole

Found = tuple[list[Row], dict[str, object]]
Parts = Mapping[str, Callable[[], Found]]
STATE = "state"
MODES = ("eager", "compiled", "compiled+graphs")


class Scale(NamedTuple):
    """What full size and toy size differ in."""

    model: str
    device: torch.device
    dtype: str
    chunks: int
    windows: tuple[int, ...]
    modes: tuple[str, ...]

    @property
    def is_small(self) -> bool:
        return self.device.type == "cpu"

    def setup(self) -> Setup:
        """Make the network, its prompt and the rate of this device."""
        size, dtype = SIZES[self.model], getattr(torch, self.dtype)
        rate, model = MatmulRate(self.device, dtype), backbone(size, self.device, dtype)
        text = prompt(size, self.device)
        return Setup(self.model, size, model, text, self.dtype, rate, self.chunks)

    def variant(self, mode: str) -> Variant:
        """Run it in this mode, with the kernel that a recipe takes here."""
        kernel = kernel_of("auto", self.device, getattr(torch, self.dtype))
        return Variant(mode, kernel)


FULL = Scale("1.3B", torch.device("cuda"), "bfloat16", 10, (3, 9), MODES)
SMALL = Scale("tiny", torch.device("cpu"), "float32", 2, (3,), ("eager",))


def network_parts(scale: Scale, folder: Path) -> Parts:
    """Return step 2: the network alone, with AdaState's frame, in every mode."""
    del folder
    setup = scale.setup()
    variants = [scale.variant(mode) for mode in scale.modes]

    def measure(cached: int) -> Found:
        return measure_network(setup, cached, STATE, variants), {}

    return {f"{cached} cached": lambda cached=cached: measure(cached) for cached in scale.windows}


def whole_parts(scale: Scale, folder: Path) -> Parts:
    """Return step 4: network, decoder and video file behind 3 cached frames (`window_frames: 6`), with and without the state."""
    from codec import decoders

    setup = scale.setup()
    best = scale.variant(scale.modes[-1])
    size = setup.size
    paths = decoders(
        size.vae_width, size.latent, scale.device, scale.dtype, compiled=not scale.is_small
    )
    shown = {"exact": paths["fast" if scale.is_small else "compiled"], "tiny": paths["tiny"]}

    def measure(anchor: str) -> Found:
        return measure_whole(setup, 3, anchor, best, shown, videos=folder), {}

    return {anchor: lambda anchor=anchor: measure(anchor) for anchor in (STATE, "none")}


STEPS: dict[int, Callable[[Scale, Path], Parts]] = {
    1: kernel_parts,
    2: network_parts,
    3: decoder_parts,
    4: whole_parts,
    5: late_parts,
    6: training_parts,
}


def run(step: int, scale: Scale, folder: Path, seconds: float) -> dict[str, str]:
    """Run a step's parts, keep what they find in one file, and return what was left out and why."""
    end = time.monotonic() + seconds
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    own: dict[str, object] = {}
    left_out: dict[str, str] = {}

    def keep() -> None:
        about = {"step": step, "small": scale.is_small, "parts": own, "left_out": left_out}
        write(folder / f"step{step}.json", rows, about)

    try:
        parts = STEPS[step](scale, folder)
    except (ImportError, RuntimeError, ValueError) as error:
        parts, left_out["all"] = {}, _first_line(error)
    for name, part in parts.items():
        if time.monotonic() > end:
            left_out[name] = "no time was left"
            continue
        try:
            more, own[name] = part()
            rows += more
        except (ImportError, RuntimeError, ValueError) as error:
            left_out[name] = _first_line(error)
        keep()
    keep()
    print_rows(rows)
    return left_out


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("step", type=int, choices=STEPS)
    parser.add_argument("--small", action="store_true", help="toy size on the CPU")
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    parser.add_argument("--seconds", type=float, default=520.0, help="begin no part after these")
    args = parser.parse_args()
    if not args.small and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --small runs it on the CPU")
    left_out = run(args.step, SMALL if args.small else FULL, args.out, args.seconds)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
