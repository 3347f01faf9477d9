"""A layout as a table: one row per chunk and kind of pass, with its cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lightning_adastate.analysis.layout import ChunkLayout, Role
from lightning_adastate.analysis.layout_text import describe, event_text, joint_passes
from lightning_adastate.analysis.operations import GIGA, TERA, Geometry, chunk_cost

COLUMNS: tuple[Role, ...] = ("anchor", "history", "cached", "state", "live", "ahead")

WIDTH = 150
"""Columns of text the table needs."""


def print_layout(chunks: Sequence[ChunkLayout], geometry: Geometry, console: Console) -> None:
    """Print one row per chunk and kind of pass, and what the last chunk costs."""
    slots = [slot for chunk in chunks for seen in chunk.passes for slot in seen.slots]
    roles = [role for role in COLUMNS if any(slot.role == role for slot in slots)]
    table = Table(title="frames @ temporal index", title_justify="left", title_style="bold")
    table.add_column("chunk")
    for head in ("passes", *roles):
        table.add_column(head, max_width=44)
    for head in ("frames", "GB", "TFLOP"):
        table.add_column(head, justify="right")
    for chunk in chunks:
        for event in chunk.events:
            table.add_row(str(chunk.index), f"[italic]event: {event_text(event)}[/italic]")
        cost = chunk_cost(geometry, chunk)
        total = [f"{cost.flops.total / TERA:.1f}"]
        for name, seen in joint_passes(chunk):
            cells = [describe([s for s in seen.slots if s.role == role]) for role in roles]
            frames = f"{seen.num_keys:.4g}"
            size = f"{seen.num_keys * geometry.frame_bytes / GIGA:.2f}"
            table.add_row(str(chunk.index), name, *cells, frames, size, *total)
            total = [""]
        table.add_section()
    console.print(table)
    cost = chunk_cost(geometry, chunks[-1])
    console.print(
        f"chunk {chunks[-1].index}: {cost.passes} passes, {cost.attended:.4g} frames attended to "
        f"({cost.attended_bytes / GIGA:.2f} GB of keys and values), {cost.kept_bytes / GIGA:.2f} GB wait for "
        f"the next chunk, {cost.flops.total / TERA:.1f} TFLOP"
    )
    console.print(
        "7' was encoded anew, 7~357 is cached at timestep 357, s2 is the hidden state of chunk 2; "
        "counts are for --geometry, by default Wan 2.1 1.3B at 480 x 832 in bfloat16"
    )
