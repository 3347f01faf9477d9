"""All benchmarks, one after the other, and one JSON of their rows with the machine they ran on.

    python benchmarks                        # the CPU benchmarks; half an hour on two quiet cores
    python benchmarks --quick --json all.json     # fewer chunks and rounds: minutes

Each script also runs alone, and says in its own --help what its columns are.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
SCRIPTS = {  # name: arguments of a quick run
    "streaming": ["--chunks", "60"],
    "versus_plain": ["--chunks", "8"],
    "precision": ["--chunks", "7"],
    "training": ["--frames", "9", "21"],
    "codec": ["--widths", "24", "--rounds", "2"],
}


def machine() -> dict[str, object]:
    """What the numbers depend on."""
    return {
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer chunks and rounds")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--json", type=Path, help="write all rows here")
    args = parser.parse_args()
    rows: dict[str, object] = {"machine": machine()}
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "rows.json"
            command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(made)]
            print(f"== {name}", flush=True)
            subprocess.run([*command, *(SCRIPTS[name] if args.quick else [])], check=True)
            rows[name] = json.loads(made.read_text())
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
