"""Draw the window of a chunk as anchor and cache lay it out: python docs/draw_window.py docs/window.png

Nothing is drawn by hand: a stream of symbols runs to the chunk, and what it was given is read back.
"""

import argparse

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

from lightning_adastate.analysis.layout import lay_out
from lightning_adastate.anchors import AdaptiveAnchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.schedules import FewStepSchedule

COLORS = {"anchor": "#c8553d", "state": "#f0a868", "cached": "#6c8ead", "live": "#8fb996"}


def layout(anchor, chunk):
    """Return (kind, temporal index, label) of every frame chunk ``chunk`` sees."""
    laid = lay_out(anchor, RelativisticCache(window_frames=6), FewStepSchedule(3), chunk + 1)
    cells = []
    for slot in laid[chunk].passes[0].slots:
        ((label, _),) = slot.shares
        name = f"state {label.chunk}" if label.kind == "state" else f"frame {label.number}"
        cells.append((slot.role, round(slot.first), name))
    return cells


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    path = parser.parse_args().output
    rows = [
        ("StaticAnchor, chunk 9", layout(StaticAnchor(1), 9)),
        ("AdaptiveAnchor, chunk 9", layout(AdaptiveAnchor(1), 9)),
        ("AdaptiveAnchor, chunk 10", layout(AdaptiveAnchor(1), 10)),
    ]
    figure, axes = plt.subplots(figsize=(9.6, 3.4), dpi=150)
    for row, (title, cells) in enumerate(rows):
        y = -1.25 * row
        axes.text(-0.2, y + 0.4, title, ha="right", va="center", fontsize=9)
        for kind, index, label in cells:
            noisy = kind in ("state", "live")
            axes.add_patch(
                FancyBboxPatch(
                    (index + 0.06, y),
                    0.88,
                    0.8,
                    boxstyle="round,pad=0.02",
                    facecolor=COLORS[kind],
                    edgecolor="black",
                    linestyle="--" if noisy else "-",
                    linewidth=1,
                )
            )
            axes.text(index + 0.5, y + 0.52, label, ha="center", va="center", fontsize=8)
            axes.text(index + 0.5, y + 0.2, f"index {index}", ha="center", va="center", fontsize=6)
    names = {
        "anchor": "anchor (clean)",
        "state": "live state, never rendered",
        "cached": "cached content (clean)",
        "live": "live content",
    }
    for i, (kind, name) in enumerate(names.items()):
        axes.add_patch(plt.Rectangle((2.55 * i - 1.4, -3.5), 0.25, 0.25, facecolor=COLORS[kind]))
        axes.text(2.55 * i - 1.1, -3.38, name, va="center", fontsize=8)
    axes.text(
        -1.4, -3.95, "dashed: being denoised together, each attends to the whole row", fontsize=8
    )
    axes.set(xlim=(-2.6, 8.2), ylim=(-4.1, 1.0))
    axes.axis("off")
    figure.savefig(path, bbox_inches="tight")


if __name__ == "__main__":
    main()
