"""fit as a user runs it: stopped by SIGTERM and resumed, and in several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lightning_adastate

ROOT = Path(lightning_adastate.__file__).parent.parent

CALLBACKS = """
import os, signal
import torch
from lightning.pytorch import Callback

class Agree(Callback):
    def on_train_end(self, trainer, pl_module):
        for part in (pl_module.generator, pl_module.generator_ema, pl_module.critic):
            flat = torch.cat([parameter.detach().flatten() for parameter in part.parameters()])
            both = pl_module.all_gather(flat)
            assert torch.equal(both[0], both[1])
        assert trainer.world_size == 2

class StopAt(Callback):
    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.batches_seen == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)
"""

OPTIONS = """\
--config toy/adastate --model.generator_interval 2 --model.critic_warmup 1 --model.critic_steps 2
--model.backbone.num_layers 1 --model.weights null --model.teacher_weights null
--model.critic_weights null --model.num_frames 9 --model.lr_scheduler.warmup_steps 3
--data.num_clips 12 --data.video_frames 15 --data.clip_frames 9 --data.batch_size 2
--data.cache_folder clips --trainer.accelerator cpu --trainer.enable_progress_bar false
--trainer.enable_model_summary false --trainer.logger.save_dir runs
""".split()  # noqa: SIM905


def run(folder, *options):
    """Run one fit in a process of its own; return its exit code, stderr, and checkpoint folder."""
    before = set(folder.glob("runs/toy-adastate/*"))
    done = subprocess.run(
        [sys.executable, "-m", "lightning_adastate", "fit", *OPTIONS, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    (new,) = set(folder.glob("runs/toy-adastate/*")) - before or {folder}
    return done.returncode, done.stderr, new / "checkpoints"


def differences(ours, theirs, path=""):
    """Name every place where two checkpoints differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [d for key in ours for d in differences(ours[key], theirs[key], f"{path}.{key}")]
    if isinstance(ours, (list, tuple)) and len(ours) == len(theirs):
        pairs = zip(ours, theirs, strict=True)
        return [d for i, (a, b) in enumerate(pairs) for d in differences(a, b, f"{path}.{i}")]
    if isinstance(ours, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [path]
    return [] if ours == theirs else [path]


@pytest.mark.slow
def test_a_fit_stopped_by_sigterm_and_resumed_equals_the_uninterrupted_one(tmp_path):
    (tmp_path / "my_callbacks.py").write_text(CALLBACKS)
    code, said, whole = run(tmp_path, "--trainer.max_steps=6")
    assert code == 0, said
    stop = "--trainer.callbacks+={class_path: my_callbacks.StopAt, init_args: {batch: 8}}"
    code, said, stopped = run(tmp_path, "--trainer.max_steps=6", stop)
    assert code == 143, said
    assert "resume with --ckpt_path" in said
    path = stopped / "stopped.ckpt"
    assert torch.load(path, weights_only=True)["batches_seen"] == 8, "an epoch has 5 batches"
    code, said, resumed = run(tmp_path, "--trainer.max_steps=6", f"--ckpt_path={path}")
    assert code == 0, said
    ours, theirs = (
        torch.load(folder / "last.ckpt", weights_only=True) for folder in (resumed, whole)
    )
    assert ours["global_step"] == 6
    compared = ("state_dict", "optimizer_states", "random_states", "batches_seen", "epoch")
    for part in compared:
        assert differences(ours[part], theirs[part], part) == []
    start = torch.load(path, weights_only=True)["state_dict"]
    assert differences(start, theirs["state_dict"]), "the steps after the stop must change weights"


@pytest.mark.slow
def test_a_recipe_trains_in_two_processes_and_they_agree(tmp_path):
    (tmp_path / "my_callbacks.py").write_text(CALLBACKS)
    options = ["--trainer.max_steps=2", "--trainer.devices=2", "--data.val_fraction=0.5"]
    code, said, folder = run(tmp_path, *options, "--trainer.callbacks+=my_callbacks.Agree")
    assert code == 0, said
    assert (folder / "last.ckpt").exists()
