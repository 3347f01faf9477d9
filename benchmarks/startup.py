"""How long verbs take to start, as ratios to `import torch` and to `import lightning.pytorch` of the same run.

    python benchmarks/startup.py                       # every verb, five rounds: minutes
    python benchmarks/startup.py --rounds 3 --verbs convert evaluate generate

A start is `VERB --help` in a process of its own: all imports, and the parser built. Mistakes are answered from the text
alone. Everything runs once unmeasured (files in memory, bytecode written), then in turn, round by round. Seconds are of
the processor, user and system, so that a busy machine disturbs little; the table holds medians, wall time beside them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lightning_adastate.__main__ import MODEL_VERBS, SMALL_VERBS

TORCH, LIGHTNING = "import torch", "import lightning.pytorch"
WITHOUT_LIGHTNING = ("convert", "replay", "evaluate", "doctor", "layout")
"""Verbs held against torch; the others read a recipe."""

MISTAKES = {
    "misspelt verb": ["convret"],
    "misspelt option": ["fit", "--modle.anchor=EMAAnchor"],
    "missing config": ["fit", "--config", "toy/no_such"],
    "misspelt key": ["fit", "--config", "misspelt.yaml"],
}
PROGRAM = [sys.executable, "-m", "lightning_adastate"]


def commands(verbs: list[str], folder: Path) -> dict[str, tuple[list[str], str]]:
    """Return what is run by name, and which import it is held against."""
    (folder / "misspelt.yaml").write_text("modle: {}\n")
    found = {name: ([sys.executable, "-c", name], name) for name in (TORCH, LIGHTNING)}
    for verb in verbs:
        base = TORCH if verb in WITHOUT_LIGHTNING else LIGHTNING
        found[f"{verb} --help"] = ([*PROGRAM, verb, "--help"], base)
    for name, words in MISTAKES.items():
        found[name] = ([*PROGRAM, *words], TORCH)
    return found


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command and return its seconds on the processor and on the wall."""
    begun = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0  # it has been waited for
    return used.ru_utime + used.ru_stime, time.perf_counter() - begun


def measure(asked: dict[str, tuple[list[str], str]], rounds: int, folder: Path) -> dict[str, dict]:
    """Return medians by name."""
    made: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
    for turn in range(rounds + 1):
        for name, (command, _) in asked.items():
            taken = seconds(command, folder)
            if turn:
                made[name].append(taken)
    found = {}
    for name, taken in made.items():
        processor, wall = (statistics.median(column) for column in zip(*taken, strict=True))
        found[name] = {"seconds": processor, "wall": wall, "against": asked[name][1]}
    for row in found.values():
        row["ratio"] = row["seconds"] / found[row["against"]]["seconds"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    every = [*MODEL_VERBS, *SMALL_VERBS]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--verbs", nargs="+", choices=every, default=every)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        asked = commands(args.verbs, Path(folder))
        found = measure(asked, args.rounds, Path(folder))
    table = Table(title=f"{args.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    for column in ("start", "processor s", "wall s", "ratio", "to"):
        table.add_column(column, justify="left" if column in ("start", "to") else "right")
    for name, row in found.items():
        shown = (f"{row['seconds']:.2f}", f"{row['wall']:.2f}", f"{row['ratio']:.2f}")
        table.add_row(name, *shown, row["against"])
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
