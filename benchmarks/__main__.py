"""All benchmarks, one after the other, then one table and one JSON of their rows with the machine they ran on.

    python benchmarks                             # the CPU benchmarks; most of an hour on two quiet cores
    python benchmarks --quick --json all.json     # fewer chunks and rounds: minutes
    python benchmarks --device cuda --json all.json       # what a GPU can show, 1.3B at 480 x 832

Each script also runs alone, and says in its own --help what its columns are. A script that fails is named at the end;
the others run all the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rows import Row, machine, print_rows, read

HERE = Path(__file__).parent
CPU = {  # name: arguments of a quick run
    "streaming": ["--chunks", "60"],
    "versus_plain": ["--chunks", "8"],
    "precision": ["--chunks", "7"],
    "training": ["--frames", "9", "21"],
    "memory": ["--precisions", "32-true"],
    "codec": ["--widths", "24", "--rounds", "2"],
    "wan": ["--windows", "3", "--chunks", "4", "--modes", "plain", "eager"],
    "attention": ["--rounds", "5", "--keys", "6", "12"],
    "projections": ["--rounds", "1"],
    "allocations": ["--modes", "eager"],
}
CUDA = {
    "wan": ["--windows", "3", "9", "--chunks", "6"],
    "attention": ["--rounds", "5", "--keys", "6", "12"],
    "projections": ["--rounds", "2"],
    "allocations": [],
}
ON_CUDA = {  # always, on a GPU
    "wan": ["--device", "cuda"],
    "attention": ["--device", "cuda"],
    "projections": ["--device", "cuda", "--dtype", "bfloat16"],
    "allocations": ["--device", "cuda"],
}


def run(name: str, arguments: list[str]) -> tuple[list[Row], dict[str, object]] | None:
    """Run one script in a process of its own and return what it wrote, or ``None`` if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "rows.json"
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(made), *arguments]
        print(f"== {name}", flush=True)
        done = subprocess.run(command, check=False)
        return read(made) if done.returncode == 0 and made.exists() else None


def arguments_of(name: str, device: str, *, quick: bool) -> list[str]:
    """Return what a script is called with."""
    scripts = CUDA if device == "cuda" else CPU
    fixed = ON_CUDA[name] if device == "cuda" else []
    return [*fixed, *(scripts[name] if quick else [])]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer chunks and rounds")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", choices=CPU, help="of the device's scripts, these")
    parser.add_argument("--json", type=Path, help="write all rows here")
    args = parser.parse_args()
    names = list(CUDA if args.device == "cuda" else CPU)
    if unknown := set(args.only or ()) - set(names):
        parser.error(f"{', '.join(sorted(unknown))} runs on the CPU alone")
    rows: list[Row] = []
    own: dict[str, object] = {}
    failed = []
    for name in [name for name in names if not args.only or name in args.only]:
        done = run(name, arguments_of(name, args.device, quick=args.quick))
        if done is None:
            failed.append(name)
            continue
        rows += done[0]
        own[name] = done[1]
    print_rows(rows)
    if args.json:
        full = [asdict(row) | {"fps": row.fps, "share": row.share} for row in rows]
        whole = {"machine": machine(), "rows": full, "own": own, "failed": failed}
        partial = args.json.with_name(args.json.name + ".part")
        partial.write_text(json.dumps(whole, indent=1) + "\n")
        os.replace(partial, args.json)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
