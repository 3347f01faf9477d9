"""Make the tables of docs/results.md from the folders of `compare`, one per training seed.

python docs/memory_tables.py outputs/memory-0 outputs/memory-1 outputs/memory-2
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch

from lightning_adastate.evaluation.bootstrap import seed_bootstrap

SCORES = ("id_bias", "displacement", "hero", "loc_err")
BASELINE = "none"


def load(folders: list[Path]) -> pd.DataFrame:
    """Return every score of every stream, with its training seed's number."""
    parts = [pd.read_csv(folder / "scores.csv").assign(seed=i) for i, folder in enumerate(folders)]
    return pd.concat(parts)


def table_of(frame: pd.DataFrame, arm: str, frames: int, column: str) -> torch.Tensor:
    """Return ``[seeds, episodes]``."""
    rows = frame[(frame.arm == arm) & (frame.frames == frames)]
    table = rows.pivot(index="seed", columns="episode", values=column)
    return torch.tensor(table.to_numpy())


def kept(folders: list[Path], arm: str) -> list[tuple[int, int]]:
    """Return for each seed how many hides ended with the same hero, and how many there were."""
    found = []
    for folder in folders:
        rows = pd.read_csv(folder / "retention.csv")
        rows = rows[rows.arm == arm]
        found.append((int(rows.kept.sum()), len(rows)))
    return found


def by_length(folders: list[Path], arm: str) -> dict[str, tuple[int, int]]:
    """Return kept and all hides over all seeds, by how many frames the hero was away."""
    rows = pd.concat([pd.read_csv(folder / "retention.csv") for folder in folders])
    rows = rows[rows.arm == arm]
    away = rows.returned - rows.hidden
    lengths = {"5-8": away <= 8, "9-12": (away > 8) & (away <= 12), "13 and more": away > 12}
    lengths["never"] = rows.returned.isna()
    return {name: (int(rows.kept[mask].sum()), int(mask.sum())) for name, mask in lengths.items()}


def main() -> None:
    """Print Markdown."""
    folders = [Path(name) for name in sys.argv[1:]]
    frame = load(folders)
    arms = list(dict.fromkeys(frame.arm))
    for frames in sorted(frame.frames.unique()):
        print(f"\n| {frames} frames | " + " | ".join(SCORES) + " |")
        print("|---" * (len(SCORES) + 1) + "|")
        tables = {arm: [table_of(frame, arm, frames, name) for name in SCORES] for arm in arms}
        for arm, scores in tables.items():
            cells = [seed_bootstrap(score).text(".2f") for score in scores]
            print(f"| {arm} | " + " | ".join(cells) + " |")
        for arm, scores in tables.items():
            if arm == BASELINE:
                continue
            pairs = zip(scores, tables[BASELINE], strict=True)
            cells = [seed_bootstrap(score - base).text("+.2f") for score, base in pairs]
            print(f"| {arm} - {BASELINE} | " + " | ".join(cells) + " |")
    print("\n| hides of the whole stream | kept, seed by seed | share | by frames away |")
    print("|---|---|---|---|")
    for arm in arms:
        seeds = kept(folders, arm)
        share = sum(a for a, _ in seeds) / max(1, sum(b for _, b in seeds))
        lengths = ", ".join(
            f"{name}: {a} / {b}" for name, (a, b) in by_length(folders, arm).items()
        )
        print(
            f"| {arm} | "
            + ", ".join(f"{a} / {b}" for a, b in seeds)
            + f" | {share:.2f} | {lengths} |"
        )


if __name__ == "__main__":
    main()
