"""The main job end to end on a CPU: a short fit, then four anchors streamed side by side in a world whose hero hides.

Without an anchor the hero comes back in another colour; with a static one the scene stands still; a hidden state that has
learnt from later chunks does neither. The fit shows that training works and is far too short to matter: the arms stream the
shipped weights, which were trained for all of them (docs/results.md).
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

RECIPE = "toy/adastate_recurrent"

STEPS = 40
"""Steps of the fit; the recipe itself makes 600."""

FIT = (
    "--data.num_clips=256",
    "--model.weights=toy/memory.safetensors",
    "--model.optimizer.lr=1e-4",
)
"""What the demo changes in the recipe beside that: it goes on from the trained arm, gently."""

QUICK_STEPS = 2

QUICK = (*FIT, "--data.num_clips=32", "--data.batch_size=4")
"""What ``--quick`` changes: enough to see that everything runs, too little to learn."""

FITTED = "adaptive, fitted on"


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the few options the demo has."""
    parser = argparse.ArgumentParser(prog="python -m lightning_adastate.demo", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), help="folder to write to"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of a minute, learns nothing"
    )
    return parser.parse_args(args)


def fit(folder: Path, *, quick: bool) -> Path:
    """Fit the adaptive arm on; return the checkpoint.

    Raises:
        RuntimeError: If the fit failed; it has said why.
    """
    from lightning_adastate.__main__ import main as command_line

    steps = QUICK_STEPS if quick else STEPS
    shutil.rmtree(folder / "fit", ignore_errors=True)  # of an earlier demo
    saving = {"every_n_train_steps": steps, "save_last": True}
    command = [
        "fit",
        f"--config={RECIPE}",
        *(QUICK if quick else FIT),
        f"--trainer.max_steps={steps}",
        f"--trainer.callbacks={json.dumps([{'class_path': 'ModelCheckpoint', 'init_args': saving}])}",
        f"--trainer.logger.save_dir={folder}",
        "--trainer.logger.name=fit",
        "--trainer.logger.version=0",
        "--trainer.enable_model_summary=false",
    ]
    print("python -m lightning_adastate", shlex.join(command), flush=True)
    code = command_line(command)
    checkpoint = folder / "fit" / "version_0" / "checkpoints" / "last.ckpt"
    if code or not checkpoint.exists():
        raise RuntimeError(f"the fit ended with code {code} and no {checkpoint}")
    return checkpoint


def main(args: Sequence[str] | None = None) -> int:
    """Fit, stream, measure, and say where to look."""
    chosen = parse(args)
    begin = time.monotonic()
    chosen.output.mkdir(parents=True, exist_ok=True)
    checkpoint = fit(chosen.output, quick=chosen.quick)

    from lightning_adastate.anchors import AdaptiveAnchor
    from lightning_adastate.evaluation.arms import Variation
    from lightning_adastate.evaluation.console import wide_console
    from lightning_adastate.evaluation.tables import print_tables
    from lightning_adastate.recipes.comparison import load_comparison

    smaller = ["--episodes=4", "--horizons=[24]"] if chosen.quick else ["--episodes=32"]
    comparison = load_comparison("toy/memory", [*smaller, "--swap_after=4"])
    arms = {**comparison.arms, FITTED: Variation(AdaptiveAnchor(1), weights=str(checkpoint))}
    compared = comparison.run(arms)
    print_tables(compared.arms, wide_console())
    names = compared.write(chosen.output)
    print(f"written to {chosen.output}: {', '.join(names)}")
    print(
        f"Watch {chosen.output / 'comparison.mp4'}: who comes back from behind the dark landmarks?"
    )
    Console().print(f"demo finished in {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
