"""Plot the loss curves of the shipped toy checkpoints: python docs/plot_curves.py docs/curves.png"""

import argparse
import csv
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).parent / "curves"


def series(name, key):
    """Return steps and values of one logged number."""
    with (FOLDER / f"{name}.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row.get(key)]
    return [int(float(row["step"])) for row in rows if row["step"]], [
        float(row[key]) for row in rows if row["step"]
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    path = parser.parse_args().output
    names = sorted(file.stem for file in FOLDER.glob("*.csv"))
    rows = -(-len(names) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(10, 3.2 * rows), dpi=120, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        for key in ("train/loss", "train/loss_generator", "train/loss_critic"):
            steps, values = series(name, key)
            if values:
                axis.plot(steps, values, linewidth=0.8, label=key)
        axis.set(title=name, xlabel="optimiser step", yscale="log")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
