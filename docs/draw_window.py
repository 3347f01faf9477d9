"""Draw the window of a chunk as anchor and cache lay it out: python docs/draw_window.py docs/window.png

Nothing is drawn by hand: a tiny stream runs to the chunk and its plan is asked.
"""

import argparse

import matplotlib as mpl
import torch

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

from lightning_adastate.anchors import AdaptiveAnchor, StaticAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streamer import Streamer

COLORS = {"anchor": "#c8553d", "state": "#f0a868", "cached": "#6c8ead", "live": "#8fb996"}


def layout(anchor, chunk):
    """Return (kind, temporal index, label) of every frame chunk ``chunk`` sees."""
    torch.manual_seed(0)
    backbone = WanTransformer(
        12,
        ffn_dim=8,
        num_heads=1,
        num_layers=1,
        in_channels=1,
        freq_dim=4,
        text_dim=2,
        text_tokens=1,
    )
    cache = RelativisticCache(window_frames=6)
    model = Streamer(backbone, anchor=anchor, cache=cache, schedule=FewStepSchedule(3))
    state = model.start(torch.zeros(1, 1, 2), latent_shape=(1, 2, 2))
    for _ in model.stream(state, chunk):
        state = _.state
    plan = model._plan(state, None)
    state_index, live_index = (
        plan.positions.live.key[: plan.num_state],
        plan.positions.live.key[plan.num_state :],
    )
    births = [birth for block in plan.kept for birth in block.births]
    shown = [f"state {chunk - 1}"] if plan.num_state else ["frame 0"]
    return [
        *(("anchor", i, name) for i, name in zip(plan.positions.anchor, shown, strict=False)),
        *(("state", i, f"state {chunk}") for i in state_index),
        *(("cached", i, f"frame {b}") for i, b in zip(plan.positions.cached, births, strict=True)),
        *(("live", i, f"frame {state.first_frame + n}") for n, i in enumerate(live_index)),
    ]


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
