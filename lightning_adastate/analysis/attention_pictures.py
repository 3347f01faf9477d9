"""A picture of where attention goes: shares over the stream, and by layer at its end."""

# Shapes: L layers, F frames.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_adastate.analysis.attention import PassMass

ANCHOR, NEWEST, REST = "#b5533c", "#3c6fb5", "#9aa3ad"
DPI = 120


def attention_picture(path: str | Path, seen: Sequence[PassMass], *, title: str = "") -> None:
    """Write a PNG: shares of anchor, newest frame and the others by chunk, and by layer in the last chunk.

    Args:
        path: Where to.
        seen: Passes of a stream, in order.
        title: Above all.

    Raises:
        ValueError: If there is none.
    """
    if not seen:
        raise ValueError("`seen` must hold one pass or more, got none")
    figure = Figure(figsize=(11.0, 3.8), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))
    draw_stream(left, seen)
    draw_layers(right, [mass for mass in seen if mass.chunk == seen[-1].chunk])
    figure.suptitle(title, fontsize=11)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor="white")


def draw_stream(axes: Axes, seen: Sequence[PassMass]) -> None:
    """Draw shares over chunks, one line for each place in memory, mean over passes, layers and heads."""
    chunks = sorted({mass.chunk for mass in seen})
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for chunk in chunks:
        masses = _widest([mass for mass in seen if mass.chunk == chunk])
        shares = torch.stack([mass.by_frame for mass in masses]).mean(0)
        count = masses[0].num_anchor
        points = [("the others", shares[count:-1].mean())] if len(shares) > count + 1 else []
        points += [("newest cached frame", shares[-1])] if len(shares) > count else []
        points += [("anchor", shares[:count].sum())] if count else []
        for name, share in points:
            xs, ys = lines.setdefault(name, ([], []))
            xs.append(chunk)
            ys.append(float(share))
    colors = {"anchor": ANCHOR, "newest cached frame": NEWEST, "the others": REST}
    for name, (xs, ys) in lines.items():
        axes.plot(xs, ys, "o-", color=colors[name], label=name, markersize=3.5)
    axes.set(xlabel="chunk", ylabel="share of the attention to cached frames", ylim=(0.0, None))
    axes.set_title("mean over passes, layers, heads; `the others`: mean of a frame", fontsize=8.5)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_layers(axes: Axes, seen: Sequence[PassMass]) -> None:
    """Draw shares by layer and frame in one chunk, mean over its passes and heads."""
    masses = _widest(seen)
    share_LF = torch.stack([mass.share_LNF.mean(1) for mass in masses]).mean(0)
    image = axes.imshow(share_LF.numpy(), cmap="Blues", vmin=0.0, aspect="auto")
    frames = masses[0].frames
    names = [
        f"{'anchor ' if frame.role == 'anchor' else ''}{frame.frame_index}" for frame in frames
    ]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(
        range(len(share_LF)), [str(layer) for layer in range(len(share_LF))], fontsize=8
    )
    axes.set(xlabel="cached frame (number in the stream)", ylabel="layer")
    axes.set_title(f"chunk {masses[0].chunk}", fontsize=8.5)
    colorbar = axes.figure.colorbar(image, ax=axes)
    colorbar.ax.tick_params(labelsize=8)


def _widest(seen: Sequence[PassMass]) -> list[PassMass]:
    """Return the passes that read most frames; others of the chunk may read fewer."""
    most = max(len(mass.frames) for mass in seen)
    return [mass for mass in seen if len(mass.frames) == most]
