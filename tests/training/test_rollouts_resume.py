"""A carried sequence survives stopping and resuming, on every rank its own."""

import pytest
import torch
from lightning.pytorch import Callback
from training.test_resume import assert_same, everything
from training.test_resume import run as run_for
from training_toy import ClipData, self_forcing, trainer

from lightning_adastate.anchors import AdaptiveAnchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.rollouts import ContinuedRollouts, JointRollouts
from lightning_adastate.schedules import DiagonalSchedule, FewStepSchedule, RollingSchedule

STEPS = (1000, 500)


def run(folder, build, **options):
    """Train for 6 batches: a sequence of 4, and the beginning of the next."""
    return run_for(folder, build, clips=6, **options)


def continued(**options):
    rollouts = ContinuedRollouts(14, old_frames=2, switch="recache", switch_frames=2)
    return self_forcing(**{"rollouts": rollouts, "anchor": StaticAnchor(1), **options})


MODULES = {
    "static": continued,
    "adaptive": lambda: continued(anchor=AdaptiveAnchor(1), backward="chunks"),
    "diagonal": lambda: continued(schedule=DiagonalSchedule(1, steps=((1000, 500), (1000, 300)))),
    "joint": lambda: continued(
        rollouts=JointRollouts(
            FewStepSchedule(1, steps=STEPS), others=ContinuedRollouts(14, old_frames=2)
        ),
        schedule=RollingSchedule(1, steps=STEPS),
        cache=RelativisticCache(window_frames=4),
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_sequence_goes_on_after_a_resume_bit_for_bit(tmp_path, name):
    whole, seen = run(tmp_path, MODULES[name])
    end = everything(whole)
    _, before = run(tmp_path, MODULES[name], signal_at=3)
    path = tmp_path / "stopped.ckpt"
    saved = torch.load(path, weights_only=True)
    assert len(saved["persistent_states"]) == 1
    second, after = run(tmp_path, MODULES[name], resume=path)
    assert before + after == seen
    assert_same(everything(second), end)
    one, other = second.persistent_state, whole.persistent_state
    assert (one.chunk, one.timeline, one.seed) == (other.chunk, other.timeline, other.seed)
    assert torch.equal(one.blocks[-1].key_LBFTND, other.blocks[-1].key_LBFTND)


def test_a_resume_without_the_sequence_is_noticed(tmp_path):
    """The tests above would be worthless if they passed with a sequence that begins anew."""

    def forgetful():
        model = continued()
        model.on_train_start = lambda: None
        return model

    whole, _ = run(tmp_path, continued)
    run(tmp_path, continued, signal_at=3)
    second, _ = run(tmp_path, forgetful, resume=tmp_path / "stopped.ckpt")
    with pytest.raises(AssertionError):
        assert_same(everything(second), everything(whole))


class Compare(Callback):
    """Saves after two batches; writes each rank's sequence down after four."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if pl_module.batches_seen == 2 and self.name == "whole":
            trainer.save_checkpoint(self.folder / "at.ckpt")
        if pl_module.batches_seen == 4:
            key = pl_module.persistent_state.blocks[-1].key_LBFTND
            torch.save(key, self.folder / f"{self.name}-{trainer.global_rank}.pt")


def test_each_rank_resumes_its_own_sequence(tmp_path):
    for name, path in (("whole", None), ("resumed", tmp_path / "at.ckpt")):
        trainer(
            tmp_path,
            devices=2,
            strategy="ddp_fork",
            callbacks=[Compare(tmp_path, name)],
        ).fit(continued(backward="chunks"), ClipData(16, val_count=0), ckpt_path=path)
    found = []
    for rank in range(2):
        whole, resumed = (torch.load(tmp_path / f"{n}-{rank}.pt") for n in ("whole", "resumed"))
        assert torch.equal(whole, resumed)
        found.append(whole)
    assert not torch.allclose(*found, atol=1e-3)
    assert len(torch.load(tmp_path / "at.ckpt", weights_only=True)["persistent_states"]) == 2


def test_a_sequence_of_another_window_is_left_behind(tmp_path):
    run(tmp_path, continued, signal_at=3)
    wider = lambda: continued(cache=RelativisticCache(window_frames=3))
    with pytest.warns(UserWarning, match="does not fit, a new one begins: the stream state"):
        run(tmp_path, wider, resume=tmp_path / "stopped.ckpt")


def test_another_number_of_ranks_begins_new_sequences(tmp_path):
    run(tmp_path, continued, signal_at=3)
    path = tmp_path / "stopped.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["persistent_states"] = saved["persistent_states"] * 2
    torch.save(saved, path)
    with pytest.warns(UserWarning, match="carries the streams of 2 processes, not of 1"):
        run(tmp_path, continued, resume=path)
