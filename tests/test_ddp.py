"""Two CPU processes: same weights and exit steps, different noise and data."""

import os
import signal

import pytest
import torch
from lightning.pytorch import Callback
from training_toy import ClipData, self_forcing, trainer

from lightning_adastate.callbacks import ExactResume, GracefulStop


class Agreement(Callback):
    """Compares the ranks, inside them: asserts fail the run."""

    def __init__(self) -> None:
        self.exits: list[int] = []
        self.videos: list[torch.Tensor] = []

    def on_train_start(self, trainer, pl_module):
        rollout = pl_module.rollout
        pl_module.teacher_before = flat(pl_module.teacher)
        pl_module.generator_before = flat(pl_module.generator)

        def spy(*args, **options):
            out = rollout(*args, **options)
            self.exits.append(out.exit_step)
            self.videos.append(out.video_BFCHW.detach().clone())
            return out

        pl_module.rollout = spy

    def on_train_end(self, trainer, pl_module):
        assert trainer.world_size == 2
        for part in (pl_module.generator, pl_module.generator_ema, pl_module.critic):
            both = pl_module.all_gather(flat(part))
            assert torch.equal(both[0], both[1])
        assert not torch.equal(flat(pl_module.generator), pl_module.generator_before)
        exits = pl_module.all_gather(torch.tensor(self.exits))
        assert torch.equal(exits[0], exits[1])
        assert len(set(self.exits)) == 2, "exit steps vary"
        for video in self.videos:
            both = pl_module.all_gather(video)
            assert not torch.allclose(both[0], both[1], atol=1e-2), "ranks share noise"


def flat(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def fit(path, model, callbacks, **options):
    # Forked processes share nothing but files: what is to be compared is compared inside.
    trainer(
        path,
        devices=2,
        strategy="ddp_fork",
        callbacks=callbacks,
        **options,
    ).fit(model, ClipData(16, val_count=4))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_and_agree(tmp_path, accumulate):
    model = self_forcing(accumulate=accumulate, generator_interval=2)
    fit(tmp_path, model, [Agreement()], max_epochs=2)


class DifferentData(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        prompts = hash(tuple(batch["prompts"])) % 2**31
        both = pl_module.all_gather(torch.tensor(prompts))
        assert both[0] != both[1], "ranks share data"


def test_ranks_get_different_data(tmp_path):
    fit(tmp_path, self_forcing(), [DifferentData()], max_epochs=1)


class SaveAndCompare(Callback):
    """Writes each rank's first random number after a save; a resumed run must repeat it."""

    def __init__(self, folder, save_at=None):
        self.folder, self.save_at = folder, save_at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.batches_seen == self.save_at:
            trainer.save_checkpoint(self.folder / "at.ckpt")
        if pl_module.batches_seen == 4:
            name = f"{'whole' if self.save_at else 'resumed'}-{trainer.global_rank}.pt"
            torch.save((flat(pl_module.generator), torch.rand(3)), self.folder / name)


def test_each_rank_resumes_with_its_own_random_state(tmp_path):
    def run(save_at, ckpt_path=None):
        callbacks = [Scatter(), ExactResume(), SaveAndCompare(tmp_path, save_at)]
        trainer(
            tmp_path,
            devices=2,
            strategy="ddp_fork",
            callbacks=callbacks,
        ).fit(self_forcing(), ClipData(16, val_count=0), ckpt_path=ckpt_path)

    run(3)
    run(None, tmp_path / "at.ckpt")
    drawn = []
    for rank in range(2):
        whole, resumed = (
            torch.load(tmp_path / f"{name}-{rank}.pt") for name in ("whole", "resumed")
        )
        assert torch.equal(whole[0], resumed[0])
        assert torch.equal(whole[1], resumed[1])
        drawn.append(whole[1])
    assert not torch.equal(*drawn)


class Scatter(Callback):
    """Give every rank a global random state of its own."""

    def on_fit_start(self, trainer, pl_module):
        torch.manual_seed(100 + trainer.global_rank)


class SignalOneRank(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_rank == 1 and pl_module.batches_seen == 2:
            os.kill(os.getpid(), signal.SIGTERM)


class Count(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        (self.folder / f"rank{trainer.global_rank}").write_text(str(pl_module.batches_seen))


def test_all_ranks_stop_at_the_same_batch_if_one_is_told_to(tmp_path):
    fit(tmp_path, self_forcing(), [SignalOneRank(), GracefulStop(), Count(tmp_path)])
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["2", "2"]
    assert torch.load(tmp_path / "stopped.ckpt", weights_only=True)["batches_seen"] == 2
