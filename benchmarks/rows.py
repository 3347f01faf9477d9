"""What every benchmark reports alike: one kind of row, one table, one JSON, and the machine."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
PIXELS = 4
"""Pixel frames of a latent frame, behind a stream's first."""


@dataclass(frozen=True)
class Row:
    """One measurement; ``None`` is what was not measured or means nothing here."""

    model: str
    scope: str  # "DiT", "VAE", "end to end", "training step", "attention"
    path: str  # eager, compiled, plain, ...
    device: str
    dtype: str
    attention: str | None
    cached_frames: int | None
    anchor: str | None
    streams: int
    ms: float  # median per chunk of all streams, or per step
    frames: int | None = None  # pixel frames of a chunk, of one stream
    first_ms: float | None = None  # from the embedded prompt to the first chunk, of a warm process
    peak_mb: float | None = None
    bound_ms: float | None = None

    @property
    def fps(self) -> float | None:
        """Return pixel frames per second of all streams."""
        return None if self.frames is None else 1e3 * self.frames * self.streams / self.ms

    @property
    def share(self) -> float | None:
        """Return the share of the bound that is reached."""
        return None if self.bound_ms is None else self.bound_ms / self.ms


COLUMNS = {
    "model": lambda row: row.model,
    "scope": lambda row: row.scope,
    "path": lambda row: row.path,
    "dtype": lambda row: row.dtype,
    "attention": lambda row: row.attention or "-",
    "cached": lambda row: _number(row.cached_frames, "d"),
    "anchor": lambda row: row.anchor or "-",
    "streams": lambda row: str(row.streams),
    "ms": lambda row: f"{row.ms:.1f}",
    "FPS": lambda row: _number(row.fps, ".1f"),
    "first ms": lambda row: _number(row.first_ms, ".1f"),
    "peak MB": lambda row: _number(row.peak_mb, ".0f"),
    "bound ms": lambda row: _number(row.bound_ms, ".2f"),
    "of bound": lambda row: _number(row.share, ".1%"),
}
TEXT = ("model", "scope", "path", "dtype", "attention", "anchor")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def print_rows(rows: Sequence[Row]) -> None:
    """Print one table for each device."""
    for device in dict.fromkeys(row.device for row in rows):
        table = Table(title=f"{device}, torch {torch.__version__}; ms are medians per chunk")
        for name in COLUMNS:
            table.add_column(name, justify="left" if name in TEXT else "right", no_wrap=True)
        for row in rows:
            if row.device == device:
                table.add_row(*(show(row) for show in COLUMNS.values()))
        console = Console()
        Console(width=max(console.width, 210)).print(table)


def write(path: Path | None, rows: Sequence[Row], own: Mapping[str, object]) -> None:
    """Write the machine, the rows and a script's own numbers, if there is a path."""
    if path is None:
        return
    full = [asdict(row) | {"fps": row.fps, "share": row.share} for row in rows]
    whole = {"machine": machine(), "rows": full, "own": own}
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(whole, indent=1) + "\n")
    os.replace(partial, path)


def read(path: Path) -> tuple[list[Row], dict[str, object]]:
    """Return what `write` wrote; any other JSON is a script's own numbers."""
    whole = json.loads(path.read_text())
    if "rows" not in whole:
        return [], whole
    made = ({k: v for k, v in row.items() if k not in ("fps", "share")} for row in whole["rows"])
    return [Row(**row) for row in made], whole["own"]


def machine() -> dict[str, object]:
    """Return what numbers depend on."""
    cuda = torch.cuda.is_available()
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if cuda else None,
        "cuda_version": torch.version.cuda if cuda else None,
        "commit": commit(),
        "sources": sources(),
        "load": os.getloadavg(),
    }


def commit() -> str | None:
    """Return the commit that runs, asked of git or of what `gpu_steps.sh prepare` left; ``None`` if neither knows."""
    ask = ["git", "-C", str(ROOT)]
    try:
        told = subprocess.run(
            [*ask, "rev-parse", "HEAD"], check=False, capture_output=True, text=True
        ).stdout
    except FileNotFoundError:  # no git on this machine
        told = ""
    if told:
        changed = subprocess.run([*ask, "diff", "--quiet", "HEAD"], check=False).returncode
        return f"{told.strip()}{' and changes' if changed else ''}"
    left = ROOT / ".carry" / "commit"
    return left.read_text().strip() if left.exists() else None


def sources() -> str:
    """Return a short hash of the package's and the benchmarks' own files, which no machine can lack."""
    digest = hashlib.sha256()
    for folder in ("lightning_adastate", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(ROOT)}".encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def processor() -> str:
    """Name the processor (Linux)."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Name the GPU, or the processor and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads"


class PeakMemory:
    """Most memory used inside, in MB: PyTorch's on a GPU, resident memory of the process on a CPU.

    What the GPU held before is taken off, save what ``kept`` says belongs to it (the weights).
    """

    def __init__(self, device: torch.device, kept: int | None = None) -> None:
        self.device, self.kept, self.megabytes = device, kept, 0.0

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            held = torch.cuda.memory_allocated(self.device)
            self.others = 0 if self.kept is None else held - self.kept
        else:
            clear = Path("/proc/self/clear_refs")
            if clear.exists() and os.access(clear, os.W_OK):
                clear.write_text("5")  # begin a new maximum
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device) - self.others
            self.megabytes = peak / 2**20
        else:
            self.megabytes = most_resident()


def most_resident() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def module_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of weights and buffers."""
    return sum(each.nbytes for each in (*module.parameters(), *module.buffers()))
