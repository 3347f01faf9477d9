"""The table of docs/performance.md from the JSON files of `gpu_steps.sh`: what a GPU showed, and the goals.

    python benchmarks/report.py gpu_results/*.json                              # prints it
    python benchmarks/report.py gpu_results/*.json --into docs/performance.md   # puts it between the page's marks

Only measurements: without a file every goal is `not run`. A file whose rows are not of the GPU that it names, that is
of toy size, or that does not know its commit is refused, and nothing is written.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from goals import judge
from rows import Row, read

BEGIN, END = "<!-- gpu-steps: begin -->", "<!-- gpu-steps: end -->"
COLUMNS = (
    "what",
    "way",
    "kernel",
    "window",
    "ms",
    "bound ms",
    "of bound",
    "FPS",
    "peak GB",
    "run",
)


class Measured(NamedTuple):
    """One file: its rows, what was left out, and where and of what it is."""

    step: int
    rows: list[Row]
    left_out: dict[str, str]
    run: str


def measured(file: Path) -> Measured:
    """Return what a file holds.

    Raises:
        ValueError: If it is no JSON of a step, or no measurement of a GPU at full size and a known commit.
    """
    try:
        rows, about = read(file)
        machine = json.loads(file.read_text())["machine"]
        step, small, left_out = about["step"], about["small"], about["left_out"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no JSON of benchmarks/gpu_steps.sh ({type(error).__name__}: {error})"
        ) from error
    card, commit = machine.get("cuda"), machine.get("commit")
    others = sorted({row.device for row in rows} - {card})
    if card is None or small or others:
        where = f"of {others[0]!r}" if others else "of toy size" if small else "of no GPU"
        raise ValueError(
            f"{file} is {where} and cannot stand in a table of GPUs; run benchmarks/gpu_steps.sh "
            f"{step} on one, without --small"
        )
    if not commit:
        raise ValueError(
            f"{file} does not know its commit; run `benchmarks/gpu_steps.sh prepare` before the step"
        )
    name = f"{card}, torch {machine['torch']}, {commit[:9]}{commit[40:]}"
    return Measured(step, rows, left_out, name)


def report(files: Sequence[Path]) -> str:
    """Return both tables as Markdown.

    Raises:
        ValueError: If a file is refused.
    """
    found = [measured(file) for file in files]
    rows = [row for each in found for row in each.rows]
    lines = [*_table(("goal", "wanted", "found", "verdict"), [each.cells for each in judge(rows)])]
    if rows:
        cells = [_cells(row, each.run) for each in found for row in each.rows]
        lines += ["", *_table(COLUMNS, cells)]
    missing = [(each, name) for each in found for name in each.left_out]
    lines += [""] * bool(missing)
    lines += [
        f"- Step {each.step}, {name}: not run ({each.left_out[name]})." for each, name in missing
    ]
    return "\n".join(lines)


def put_into(page: Path, text: str) -> None:
    """Write the tables between the page's marks.

    Raises:
        ValueError: If the page lacks them.
    """
    whole = page.read_text()
    before, begins, rest = whole.partition(BEGIN)
    _, ends, behind = rest.partition(END)
    if not (begins and ends):
        raise ValueError(f"{page} has no lines {BEGIN!r} and {END!r} to write between")
    partial = page.with_name(page.name + ".part")
    partial.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{behind}")
    os.replace(partial, page)


def _cells(row: Row, run: str) -> tuple[str, ...]:
    window = "-" if row.cached_frames is None else f"{row.cached_frames} + {row.anchor}"
    numbers = (
        (row.ms, ".1f"),
        (row.bound_ms, ".1f"),
        (row.share, ".1%"),
        (row.fps, ".1f"),
        (None if row.peak_mb is None else row.peak_mb * 2**20 / 1e9, ".1f"),
    )
    shown = ("-" if value is None else format(value, form) for value, form in numbers)
    return (f"{row.scope}, {row.model}", row.path, row.attention or "-", window, *shown, run)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="*", help="JSON files of gpu_steps.sh")
    parser.add_argument("--into", type=Path, help="a page with the marks; else it is printed")
    args = parser.parse_args()
    try:
        text = report(args.files)
        if args.into is None:
            print(text)
        else:
            put_into(args.into, text)
    except ValueError as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
