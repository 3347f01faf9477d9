"""A plan as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lightning_adastate.memory.phases import Phase
from lightning_adastate.memory.planning import CONTEXT_GB, GB, total_gb

NOT_COUNTED = (
    "Predicted: the most that tensors hold at a time. Not counted: what the allocator reserves and does "
    "not use (fragmentation), NCCL's buffers, workspaces of cuDNN and cuBLAS. The CUDA context is an "
    "allowance."
)


def print_phase(phase: Phase, console: Console, limit: float | None) -> None:
    """Print the parts, the total, and whether it fits; if not, what would help."""
    table = Table(title=phase.name, title_justify="left", title_style="bold")
    table.add_column("part")
    table.add_column("GB", justify="right")
    table.add_column("", overflow="fold")
    for line in phase.resident:
        table.add_row(line.part, _gb(line.size), line.note)
    table.add_section()
    for line in phase.moments:
        mark = "largest of these" if line == phase.largest else ""
        table.add_row(f"+ {line.part}", _gb(line.size), mark)
    table.add_row("+ CUDA context", f"{CONTEXT_GB:.2f}", "allowance")
    table.add_section()
    table.add_row("total", f"{total_gb(phase):.2f}", "always there, and the largest moment")
    console.print(table)
    if limit is None:
        return
    spare = limit - total_gb(phase)
    if spare >= 0.0:
        console.print(f"{phase.name}: fits into {limit:g} GB, {spare:.1f} GB are left")
        return
    console.print(f"{phase.name}: does not fit into {limit:g} GB, {-spare:.1f} GB are missing")
    for remedy in sorted(phase.remedies, key=lambda each: -each.saves):
        console.print(f"  {remedy.option} saves {_gb(remedy.saves)} GB")


def _gb(size: int) -> str:
    return f"{size / GB:.2f}" if size >= GB / 100 or not size else f"{size / GB:.6f}"
