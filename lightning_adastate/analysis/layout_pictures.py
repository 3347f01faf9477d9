"""A picture of a layout: one row per chunk and kind of pass, frames at their temporal index."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from lightning_adastate.analysis.layout import ChunkLayout, PassLayout, Role, Slot
from lightning_adastate.analysis.layout_text import event_text, joint_passes, name_of

COLORS: dict[Role, str] = {
    "anchor": "#d98c7a",
    "history": "#c3b1d9",
    "cached": "#9db8d6",
    "state": "#f2c48d",
    "live": "#a3c9a8",
    "ahead": "#dcebd9",
}
NAMES: dict[Role, str] = {
    "anchor": "anchor",
    "history": "evicted, read again",
    "cached": "cached",
    "state": "live state, never rendered",
    "live": "live content",
    "ahead": "chunks ahead",
}
ROW = 1.0
EVENT_ROW = 0.5
CHUNK_GAP = 0.28
BOX = 0.8
GAP = 0.7
"""Width of a jump over indices where nothing stands."""
LABEL_WIDTH = 5.2
INCH_PER_INDEX = 0.42
INCH_PER_ROW = 0.46
DPI = 120


def layout_picture(
    path: str | Path, chunks: Sequence[ChunkLayout], *, title: str = "", note: str = ""
) -> None:
    """Write a PNG. Indices where nothing ever stands are left out.

    Args:
        path: Where to.
        chunks: The chunks to show, oldest first.
        title: Above all.
        note: Below all.

    Raises:
        ValueError: If there is none.
    """
    if not chunks:
        raise ValueError("`chunks` must hold one chunk or more, got none")
    columns = _columns(chunks)
    width = max(columns.values()) + 1.0
    figure = Figure(dpi=DPI)
    axes = figure.subplots()
    y = 0.0
    for chunk in chunks:
        y = _draw_chunk(axes, chunk, columns, y) - CHUNK_GAP
    _draw_indices(axes, columns, y)
    lines = note.splitlines()
    low = _draw_legend(axes, chunks, y - 0.45, lines)
    top = 1.75 if title else 0.95
    if title:
        axes.text(-LABEL_WIDTH, 1.12, title, fontsize=11, va="bottom", weight="bold")
    right = max(width, 13.5)
    axes.set(xlim=(-LABEL_WIDTH - 0.2, right), ylim=(low, top))
    axes.axis("off")
    size = ((right + LABEL_WIDTH) * INCH_PER_INDEX, (top - low) * INCH_PER_ROW)
    figure.set_size_inches(*size)
    figure.subplots_adjust(0.0, 0.0, 1.0, 1.0)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor="white")


def _columns(chunks: Sequence[ChunkLayout]) -> dict[float, float]:
    """Return where every index stands that is used, jumps made short."""
    slots = [slot for chunk in chunks for seen in chunk.passes for slot in seen.slots]
    used = sorted({place for slot in slots for place in (slot.first, slot.last)})
    columns, x = {used[0]: 0.0}, 0.0
    for before, index in pairwise(used):
        x += index - before if index - before <= 1 else 1 + GAP
        columns[index] = x
    return columns


def _draw_chunk(axes: Axes, chunk: ChunkLayout, columns: dict[float, float], y: float) -> float:
    """Draw a chunk's rows from ``y`` down; return where the next may begin."""
    for event in chunk.events:
        axes.text(0.0, y + 0.62, f"event: {event_text(event)}", fontsize=7, style="italic")
        y -= EVENT_ROW
    axes.text(-LABEL_WIDTH, y + BOX / 2, f"chunk {chunk.index}", fontsize=8.5, va="center")
    for name, seen in joint_passes(chunk):
        label = _wrapped(name)
        axes.text(
            -0.25, y + BOX / 2, label, fontsize=6.5, va="center", ha="right", color="#444444"
        )
        _draw_pass(axes, seen, columns, y)
        y -= ROW
    return y


def _wrapped(name: str, width: int = 25) -> str:
    """Break a long list of passes over lines."""
    lines = [""]
    for word in name.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _draw_pass(axes: Axes, seen: PassLayout, columns: dict[float, float], y: float) -> None:
    for slot in seen.slots:
        left, right = columns[slot.first], columns[slot.last] + 1.0
        height = BOX * (0.62 if slot.tokens < 1 else 1.0)
        mixed = len(slot.shares) > 1
        axes.add_patch(
            FancyBboxPatch(
                (left + 0.07, y),
                right - left - 0.14,
                height,
                boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=COLORS[slot.role],
                edgecolor="#222222",
                linestyle="--" if slot.is_live else "-",
                linewidth=0.9,
                hatch="////" if mixed else None,
                hatch_linewidth=0.25,
            )
        )
        upper, lower = _label(slot)
        middle = (left + right) / 2
        high = y + height * (0.66 if lower else 0.5)
        boxed = (
            {"facecolor": COLORS[slot.role], "edgecolor": "none", "pad": 0.4} if mixed else None
        )
        axes.text(middle, high, upper, fontsize=_size(upper), ha="center", va="center", bbox=boxed)
        if lower:
            low = y + height * 0.25
            axes.text(
                middle,
                low,
                lower,
                fontsize=5.0 if len(lower) < 7 else 4.3,
                ha="center",
                va="center",
                bbox=boxed,
            )


def _label(slot: Slot) -> tuple[str, str]:
    """Return what is written into a box, in two lines."""
    label, share = max(slot.shares, key=lambda each: each[1])
    noise = f"~{slot.timestep:.0f}" if slot.role == "ahead" and slot.timestep else ""
    if len(slot.shares) == 1:
        name, _, cached_noise = name_of(label).partition("~")
        return name, noise or (f"~{cached_noise}" if cached_noise else "")
    if share >= 0.5:
        percent = f"{100 * share:.0f}%" if share < 0.995 else f"{100 * share:.1f}%"
        return name_of(label), percent
    (first, _), (last, newest) = slot.shares[0], slot.shares[-1]
    return f"{name_of(first)}-{name_of(last)}", f"{name_of(last)}: {100 * newest:.2g}%"


def _size(text: str) -> float:
    return 8.0 if len(text) <= 3 else 6.5 if len(text) <= 4 else 5.2


def _draw_indices(axes: Axes, columns: dict[float, float], y: float) -> None:
    axes.text(-0.25, y + 0.98, "temporal index", fontsize=6.5, ha="right", va="center")
    for index, x in columns.items():
        axes.text(x + 0.5, y + 0.98, f"{index:g}", fontsize=6.5, ha="center", va="center")


def _draw_legend(
    axes: Axes, chunks: Sequence[ChunkLayout], y: float, lines: Sequence[str]
) -> float:
    """Draw the colours that occur and what the marks mean; return the lower edge."""
    roles = {slot.role for chunk in chunks for seen in chunk.passes for slot in seen.slots}
    x = -LABEL_WIDTH
    for role in (role for role in COLORS if role in roles):
        axes.add_patch(Rectangle((x, y + 0.25), 0.5, 0.45, facecolor=COLORS[role], ec="#222222"))
        axes.text(x + 0.65, y + 0.47, NAMES[role], fontsize=7.5, va="center")
        x += 1.3 + 0.155 * len(NAMES[role])
    slots = [slot for chunk in chunks for seen in chunk.passes for slot in seen.slots]
    labels = [label for slot in slots for label, _ in slot.shares]
    marks = ["dashed: computed in this pass"]
    if any(len(slot.shares) > 1 for slot in slots):
        marks.append("hatched: a mixture, and one share of it")
    if any(slot.tokens < 1 for slot in slots):
        marks.append("low: fewer tokens")
    if any(label.reencoded for label in labels):
        marks.append("7': encoded anew")
    if any(label.timestep for label in labels) or "ahead" in roles:
        marks.append("~357: noisy, at that timestep")
    if "state" in roles:
        marks.append("s2: hidden state of chunk 2")
    for line in ("numbers: frames of the stream; " + "; ".join(marks), *lines):
        y -= 0.5
        axes.text(-LABEL_WIDTH, y + 0.3, line, fontsize=7, va="center")
    return y - 0.1
