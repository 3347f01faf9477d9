"""A run that was stopped and resumed equals the uninterrupted one, bit for bit."""

import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR
from training_toy import ClipData, causal, flow_matching, self_forcing, trainer

from lightning_adastate.anchors import AdaptiveAnchor, StaticAnchor
from lightning_adastate.callbacks import ExactResume, GracefulStop
from lightning_adastate.training import WarmupDecay

MODULES = {
    "self_forcing": lambda: self_forcing(
        critic_warmup=1,
        num_frames=3,
        lr_scheduler=partial(CosineAnnealingLR, T_max=7),
        critic_lr_scheduler=partial(WarmupDecay, warmup_steps=4),
    ),
    "accumulating": lambda: self_forcing(accumulate=3, critic_rollout="shared", num_frames=3),
    "fresh_prompts": lambda: self_forcing(
        accumulate=2, critic_prompts="fresh", generator_interval=1, num_frames=3
    ),
    "flow_matching": lambda: flow_matching(
        mode="diffusion_forcing", accumulate=2, lr_scheduler=partial(LinearLR, total_iters=4)
    ),
    "causal": lambda: causal(training_anchors=[StaticAnchor(1), AdaptiveAnchor(1)]),
}


class Witness(Callback):
    """Writes down the data and global random numbers of every batch; may send a signal."""

    def __init__(self, signal_at: int | None = None, number: int = signal.SIGTERM) -> None:
        self.signal_at, self.number = signal_at, number
        self.seen: list[tuple[object, ...]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        drawn = (random.random(), float(np.random.rand()), float(torch.rand(())))
        self.seen.append((batch_idx, tuple(batch["prompts"]), *drawn))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.batches_seen == self.signal_at:
            os.kill(os.getpid(), self.number)


def run(folder, build, *, signal_at=None, number=signal.SIGTERM, resume=None, clips=8, **options):
    """Train for two epochs, of 4 batches each unless told otherwise."""
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    if resume is not None:
        random.seed(2), np.random.seed(2), torch.manual_seed(2)
    model, witness = build(), Witness(signal_at, number)
    run = trainer(
        folder,
        max_epochs=2,
        callbacks=[witness, ExactResume(), GracefulStop(), *options.pop("callbacks", [])],
        **options,
    )
    run.fit(model, ClipData(clips, val_count=0), ckpt_path=resume, weights_only=True)
    return model, witness.seen


def everything(model):
    """All that a run leaves behind, by name; global random states are those of this moment."""
    found = dict(model.state_dict())
    optimizers = model.optimizers(use_pl_optimizer=False)
    for i, optimizer in enumerate(optimizers if isinstance(optimizers, list) else [optimizers]):
        for j, state in optimizer.state_dict()["state"].items():
            found.update({f"optimizer.{i}.{j}.{name}": value for name, value in state.items()})
        found[f"lr.{i}"] = torch.tensor(optimizer.param_groups[0]["lr"])
    found["counters"] = torch.tensor([model.batches_seen, model.global_step])
    found["torch"] = torch.get_rng_state()
    found["numpy"] = torch.from_numpy(np.random.get_state()[1].astype(np.int64))
    found["python"] = torch.tensor(random.getstate()[1])
    return found


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different, different


STOPS = {
    "self_forcing": {
        1: 1,
        4: 4,  # the last batch of the first epoch
        6: 6,
        8: 8,  # the last of all
    },
    "accumulating": {4: 6},  # within an optimiser step, so at its end, in the second epoch
    "fresh_prompts": {
        2: 2,  # between the generator's step and the critic's
        3: 4,  # within the critic's
    },
    "flow_matching": {3: 4},
    "causal": {6: 6},
}


@pytest.mark.parametrize("name", MODULES)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, name):
    whole, seen = run(tmp_path, MODULES[name])
    end = everything(whole)
    for stop, saved in STOPS[name].items():
        first, before = run(tmp_path, MODULES[name], signal_at=stop)
        assert first.batches_seen == saved
        path = tmp_path / "stopped.ckpt"
        torch.load(path, weights_only=True)
        second, after = run(tmp_path, MODULES[name], resume=path)
        assert before + after == seen
        left = everything(second)
        if not after:  # nothing is restored for nothing to do
            left.update({name: end[name] for name in ("torch", "numpy", "python")})
        assert_same(left, end)


def test_a_checkpoint_within_an_optimizer_step_keeps_the_gradients(tmp_path):
    build = MODULES["accumulating"]
    whole, seen = run(tmp_path, build)
    end = everything(whole)
    saves = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1)
    run(
        tmp_path, build, callbacks=[saves], enable_checkpointing=True
    )  # an epoch has 4 batches, a step 3
    second, after = run(tmp_path, build, resume=tmp_path / "epoch=0.ckpt")
    assert seen[-len(after) :] == after
    assert len(after) == 4
    assert_same(everything(second), end)


def test_ctrl_c_stops_like_sigterm_and_gives_the_signals_back(tmp_path, caplog):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    model, _ = run(tmp_path, MODULES["self_forcing"], signal_at=3, number=signal.SIGINT)
    assert model.batches_seen == 3
    assert f"resume with --ckpt_path {tmp_path / 'stopped.ckpt'}" in caplog.text
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_stop_runs_no_validation_and_saves_no_half_epoch(tmp_path):
    class Count(Callback):
        validations = 0

        def on_validation_start(self, trainer, pl_module):
            self.validations += 1

    count, saves = Count(), ModelCheckpoint(tmp_path / "saves", save_last=True)
    model, witness = MODULES["self_forcing"](), Witness(3)
    callbacks = [witness, GracefulStop(), count, saves]
    trainer(
        tmp_path, callbacks=callbacks, enable_checkpointing=True, min_epochs=2, min_steps=50
    ).fit(model, ClipData(10))
    assert model.batches_seen == 3
    assert (saves.save_top_k, saves.save_last) == (1, True)
    assert count.validations == 0
    assert [path.name for path in (tmp_path / "saves").iterdir()] == ["stopped.ckpt"]


def test_checkpoints_hold_neither_teacher_nor_codec(tmp_path):
    run(tmp_path, MODULES["self_forcing"], signal_at=1)
    saved = torch.load(tmp_path / "stopped.ckpt", weights_only=True)
    kinds = {name.partition(".")[0] for name in saved["state_dict"]}
    assert kinds == {"generator", "generator_ema", "critic"}
    assert len(saved["optimizer_states"]) == 2


SCRIPT = """
import sys, pathlib
sys.path.insert(0, {tests!r})
from test_resume import MODULES, Witness, run
from lightning.pytorch import Callback

class Tell(Callback):
    def on_train_batch_end(self, *args):
        print("batch", flush=True)

run(pathlib.Path(sys.argv[1]), MODULES["self_forcing"], clips=20, callbacks=[Tell()])
"""


@pytest.mark.slow
def test_sigterm_from_outside_saves_and_exits_cleanly(tmp_path):
    here = Path(__file__).parent
    script = SCRIPT.format(tests=str(here))
    paths = os.pathsep.join([str(here), str(here.parent), str(here.parent.parent)])
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert process.stdout.readline() == "batch\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "saving at the next whole step" in err
    done = 1 + out.count("batch")
    saved = torch.load(tmp_path / "stopped.ckpt", weights_only=True)
    assert saved["batches_seen"] == done
    assert done < 20
    whole, _ = run(tmp_path / "whole", MODULES["self_forcing"], clips=20)
    saved = tmp_path / "stopped.ckpt"
    second, _ = run(tmp_path, MODULES["self_forcing"], clips=20, resume=saved)
    assert_same(everything(second), everything(whole))
