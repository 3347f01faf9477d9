"""kill -9 at random moments of a fit, then ``--ckpt_path last``: is the resumed run the uninterrupted one, bit for bit?

    python -m benchmarks.kill_fit --kills 20 --folder /tmp/kills

Every line is one start that was killed at a random moment, and what became of it. The exit code is 1 if one differs.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import lightning_adastate.cli.main  # noqa: F401  before the children: they begin with it
from lightning_adastate.__main__ import main

STEPS = 16

OPTIONS = f"""--config toy/adastate --model.generator_interval 2 --model.critic_warmup 1 --model.critic_steps 2
--model.backbone.num_layers 1 --model.weights null --model.teacher_weights null --model.critic_weights null
--model.num_frames 9 --data.num_clips 12 --data.video_frames 15 --data.clip_frames 9 --data.batch_size 2
--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.enable_model_summary false
--trainer.log_every_n_steps 3 --trainer.max_steps {STEPS}""".split()

SAVES = "{class_path: ModelCheckpoint, init_args: {every_n_train_steps: 1, save_last: true}}"

COMPARED = (
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "random_states",
    "batches_seen",
    "epoch",
)


def start(folder: Path, *more: str) -> int:
    """Start a fit whose files are in a folder, in a child that need not import anything; return its id."""
    child = os.fork()
    if child:
        return child
    os.chdir(folder)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    files = ["--trainer.logger.save_dir", "runs", "--data.cache_folder", "../clips"]
    code = main(["fit", *OPTIONS, "--trainer.callbacks", f"[{SAVES}]", *files, *more])
    sys.stdout.flush()
    os._exit(code)


def finish(folder: Path, *more: str) -> tuple[int, str]:
    """Run a fit to its end; return its exit code and all that it said."""
    _, status = os.waitpid(start(folder, *more), 0)
    return os.waitstatus_to_exitcode(status), (folder / "said.txt").read_text()


def newest(folder: Path, name: str) -> Path:
    """Return the youngest file of that name."""
    return max(folder.rglob(name), key=lambda path: path.stat().st_mtime_ns)


def same(ours: object, theirs: object) -> bool:
    """Compare parts of checkpoints, tensors bit for bit."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


def rows_logged(folder: Path) -> list[str]:
    """Return the steps of the rows of the youngest metrics.csv, those of a validation with its epoch."""
    with newest(folder, "metrics.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    return [f"{row['epoch']}/{row['step']}" if row["epoch"] else row["step"] for row in rows]


def differences(folder: Path, whole: Path) -> list[str]:
    """Name what a resumed run has left otherwise than the uninterrupted one.

    One row may be missing: the validation of an epoch from whose last batch the run was resumed.
    """
    ours, theirs = (
        torch.load(newest(each, "last.ckpt"), weights_only=True) for each in (folder, whole)
    )
    found = [part for part in COMPARED if not same(ours[part], theirs[part])]
    mine, wanted = rows_logged(folder), rows_logged(whole)
    missing = [row for row in wanted if row not in mine]
    if mine != [row for row in wanted if row not in missing] or len(missing) > 1:
        found.append("metrics.csv")
    found += [f"metrics.csv, which lacks {row}" for row in missing if "/" not in row]
    return found + [str(path) for path in folder.rglob("*.partial")]


def kill_once(folder: Path, whole: Path, moment: float) -> tuple[bool, str]:
    """Kill a fit at a moment, resume it, and compare; return whether all is well, and a line for people."""
    folder.mkdir(parents=True)
    child = start(folder)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    saved = sorted(folder.rglob("*.ckpt"))
    torn = len(list(folder.rglob("*.partial")))
    code, said = finish(folder, "--ckpt_path", "last")
    if not saved:
        refused = code == 1 and "there is no checkpoint in" in said
        code, said = finish(folder)
        done = "before the first checkpoint, `last` " + ("refused" if refused else "NOT REFUSED")
    else:
        refused, done = True, f"resumed ({torn} staging files left by the kill)"
    wrong = differences(folder, whole) if code == 0 else [said.strip()]
    return refused and not wrong, f"killed at {moment:5.2f} s: {done}; " + (
        f"DIFFERS in {', '.join(wrong)}"
        if wrong
        else f"equal bit for bit, {len(rows_logged(folder))} rows of metrics.csv"
    )


def run() -> int:
    """Run without a kill, then kill as often as was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path, required=True, help="A new folder for all files.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder = options.folder.absolute()
    whole = options.folder / "whole"
    whole.mkdir(parents=True)
    finish(whole, "--trainer.max_steps", "1")  # makes the clips
    began = time.perf_counter()
    code, said = finish(whole)
    if code:
        print(said)
        return 1
    length = time.perf_counter() - began
    rows = len(rows_logged(whole))
    print(f"uninterrupted: {length:.1f} s, {STEPS} generator steps, {rows} rows", flush=True)
    moments = random.Random(options.seed)
    failed = 0
    for number in range(options.kills):
        well, line = kill_once(options.folder / f"{number}", whole, moments.uniform(0.0, length))
        failed += not well
        print(f"{number + 1:2d} {line}", flush=True)
    print(f"{options.kills - failed} of {options.kills} well")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(run())
