"""A checkpoint from an epoch's last batch, its validation or its end goes on with the next epoch, and counts it once."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from training_toy import ClipData, flow_matching, trainer

LIMITS = {
    "epochs": {"max_epochs": 3},
    "steps": {"max_epochs": -1, "max_steps": 12},
    "both": {"max_epochs": 3, "max_steps": 12},
}

SAVES = {
    "batch end": {"every_n_train_steps": 4},
    "validation end": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    "epoch end": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
}


class Validations(Callback):
    """Writes down when validation ends."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def on_validation_end(self, trainer, pl_module):
        self.seen.append((trainer.current_epoch, pl_module.batches_seen))


def fit(folder, *callbacks, resume=None, **limits):
    """Train on epochs of 4 batches; return the module, the numbers of epochs and of logged steps, and the validations."""
    validations = Validations()
    run = trainer(
        folder,
        callbacks=[validations, *callbacks],
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        **limits,
    )
    model = flow_matching()
    run.fit(model, ClipData(8), ckpt_path=resume, weights_only=True)
    stepped = run.fit_loop.epoch_loop._batches_that_stepped
    return model, (run.current_epoch, stepped), validations.seen


def assert_goes_on(folder, path, whole, **limits):
    """Resume, and compare with the uninterrupted run."""
    saved = torch.load(path, weights_only=True)
    model, counted, validations = fit(folder, resume=path, **limits)
    assert (model.batches_seen, counted) == (12, (3, 12))
    assert validations == [seen for seen in whole[2] if seen[1] > saved["batches_seen"]]
    ours, theirs = model.state_dict(), whole[0].state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("save", SAVES)
def test_an_epochs_end_is_counted_once(tmp_path, save, limit):
    saves = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **SAVES[save])
    whole = fit(tmp_path, saves, **LIMITS[limit])
    assert whole[1:] == ((3, 12), [(0, 4), (1, 8), (2, 12)])
    for step in (4, 8):
        assert_goes_on(tmp_path, tmp_path / f"step={step}.ckpt", whole, **LIMITS[limit])


def test_a_run_that_its_number_of_steps_ended_within_an_epoch_can_be_made_longer(tmp_path):
    whole = fit(tmp_path, **LIMITS["steps"])
    last = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_train_steps=99)
    fit(tmp_path, last, max_epochs=-1, max_steps=6)
    assert_goes_on(tmp_path, tmp_path / "last.ckpt", whole, **LIMITS["steps"])
