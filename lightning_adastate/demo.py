"""The main job end to end on a CPU: a short AdaState fit, four anchors streamed side by side, a table."""

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

STEPS = 50
"""Generator steps of the fit; ``toy/adastate`` itself makes 180."""

FIT = ("--data.num_clips=256", "--model.critic_warmup=20")
"""What the demo changes in ``toy/adastate`` beside that."""

QUICK_STEPS = 2

QUICK = ("--data.num_clips=32", "--data.batch_size=4", "--model.critic_warmup=1")
"""What ``--quick`` changes: enough to see that everything runs, too little to learn."""

BEFORE = "before the fit"


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
    """Fit AdaState from the shipped generator; return the checkpoint.

    Raises:
        RuntimeError: If the fit failed; it has said why.
    """
    from lightning_adastate.__main__ import main as command_line

    steps = QUICK_STEPS if quick else STEPS
    shutil.rmtree(folder / "fit", ignore_errors=True)  # of an earlier demo
    saving = {"every_n_train_steps": steps, "save_last": True}
    command = [
        "fit",
        "--config=toy/adastate",
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
    from lightning_adastate.evaluation.tables import print_tables, wide_console
    from lightning_adastate.recipes.comparison import load_comparison
    from lightning_adastate.weights import load_into

    comparison = load_comparison("toy/compare", ["--episodes=4"] if chosen.quick else [])
    unfitted = comparison.run({BEFORE: Variation(anchor=AdaptiveAnchor(1))})
    load_into(comparison.module.streamer.backbone, checkpoint)
    compared = comparison.run()
    print_tables({**compared.arms, **unfitted.arms}, wide_console())
    names = compared.write(chosen.output)
    print(f"written to {chosen.output}: {', '.join(names)}")
    Console().print(f"demo finished in {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
