"""What a stream attends to, as a table and as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.table import Table

from lightning_adastate.analysis.attention import PassMass


def table_of(seen: Sequence[PassMass]) -> Table:
    """Return one row per chunk: shares as a mean over its passes, layers and heads."""
    table = Table(title="share of the attention to cached frames", title_justify="left")
    heads = (
        "chunk",
        "passes",
        "frames",
        "anchor",
        "its place",
        "newest",
        "mean of the rest",
        "cached / all",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for chunk in sorted({mass.chunk for mass in seen}):
        masses = [mass for mass in seen if mass.chunk == chunk]
        longest = max(len(mass.frames) for mass in masses)
        masses = [mass for mass in masses if len(mass.frames) == longest]
        shares = torch.stack([mass.by_frame for mass in masses]).mean(0)
        count = masses[0].num_anchor
        rest = shares[count:-1]
        anchor, place = "-", "-"
        if count:
            anchor = f"{shares[:count].sum():.2f}"
            places = [mass.anchor_rank for mass in masses]
            low, high = min(places), max(places)
            place = f"{low}." if low == high else f"{low}.-{high}."
        table.add_row(
            str(chunk),
            str(len(masses)),
            str(longest),
            anchor,
            place,
            f"{shares[-1]:.2f}",
            f"{rest.mean():.2f}" if len(rest) else "-",
            f"{torch.stack([mass.context_LN.mean() for mass in masses]).mean():.2f}",
        )
    return table


def as_plain(mass: PassMass) -> dict[str, object]:
    """Return a pass's numbers for a JSON file; ``share`` is by layer, head and frame."""
    return {
        "chunk": mass.chunk,
        "timestep": mass.timestep,
        "frames": [frame._asdict() for frame in mass.frames],
        "share": mass.share_LNF.tolist(),
        "context": mass.context_LN.tolist(),
    }
