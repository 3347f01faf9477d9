"""A frozen teacher in another dtype than what learns, and one that waits in the CPU's memory."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from training_toy import ClipData, backbone, self_forcing, trainer

from lightning_adastate.backbones import WanTransformer
from lightning_adastate.losses import DMDLoss, SiDLoss
from lightning_adastate.training import networks
from lightning_adastate.training.networks import Offloaded


def flat(module):
    return torch.cat([p.detach().float().flatten() for p in module.parameters()])


def fit(path, model, count=8, **options):
    files = {"ckpt_path": options.pop("ckpt_path", None)}
    run = trainer(path, **options)
    run.fit(model, ClipData(count, val_count=2), **files)
    return run


class Away(Offloaded):
    """Offloads to another place on the same device, and remembers what came and went."""

    fetched = 0

    def fetch(self, tensor, device):
        Away.fetched += 1
        return tensor.clone()


@pytest.fixture
def away(monkeypatch):
    monkeypatch.setattr(networks, "Offloaded", Away)
    monkeypatch.setattr(Away, "fetched", 0)


GUIDED = {"guidance": 2.0, "shift": 1.0}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"backward": "chunks"},
        {"loss": SiDLoss(**GUIDED), "negative_prompt": "dull"},
        {"loss": DMDLoss(**GUIDED), "negative_prompt": "dull", "accumulate": 2},
    ],
    ids=["dmd", "chunks", "sid-guided", "dmd-guided-accumulated"],
)
def test_an_offloaded_teacher_trains_the_same_to_the_last_bit(tmp_path, away, options):
    ends = {}
    for after in (False, True):
        model = self_forcing(teacher_offload=after, **options)
        begin = flat(model.generator)
        fit(tmp_path, model)
        assert not torch.equal(flat(model.generator), begin)
        ends[after] = (flat(model.generator), flat(model.critic), flat(model.generator_ema))
    assert all(torch.equal(a, b) for a, b in zip(ends[False], ends[True], strict=True))
    assert Away.fetched > 0


def places(network):
    return [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())]


def test_an_offloaded_teacher_is_on_the_device_only_while_it_scores(tmp_path, away):
    model = self_forcing(teacher_offload=True, generator_interval=2)
    model.setup("fit")
    waits, seen = places(model.teacher), {"teacher": [], "critic": []}

    def note(who):
        def hook(*_):
            here = [now != then for now, then in zip(places(model.teacher), waits, strict=True)]
            assert len(set(here)) == 1, "all of it or nothing"
            seen[who].append(here[0])

        return hook

    model.teacher.register_forward_pre_hook(note("teacher"))
    model.critic.register_full_backward_hook(note("critic"))
    model.generator.backbone.register_forward_pre_hook(note("critic"))
    fit(tmp_path, model, limit_val_batches=0)
    assert seen["teacher"], "it was asked"
    assert all(seen["teacher"])
    assert not any(seen["critic"]), "away in the rollouts and in the critic's step"
    assert places(model.teacher) == waits, "the same memory: nothing is copied back"
    assert Away.fetched == 2 * len(waits), "once for each generator step of 4 batches"


def test_a_teacher_goes_back_though_scoring_fails(away):
    model = self_forcing(teacher_offload=True)
    model.setup("fit")
    waits = places(model.teacher)

    def score():
        with model.teacher_placement.at(torch.device("cpu")) as teacher:
            assert places(teacher) != waits
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        score()
    assert places(model.teacher) == waits


def test_the_trainer_moves_a_kept_teacher_and_leaves_an_offloaded_one():
    devices = {}
    for after in (False, True):
        model = self_forcing(teacher_offload=after)
        model.setup("fit")
        model.to("meta")
        devices[after] = {p.device.type for p in model.teacher.parameters()}
        assert {p.device.type for p in model.critic.parameters()} == {"meta"}
    assert devices == {False: {"meta"}, True: {"cpu"}}


def test_checkpoints_are_the_same_wherever_the_teacher_is(tmp_path):
    saved = {}
    for after in (False, True):
        model = self_forcing(teacher_offload=after)
        run = fit(tmp_path, model)
        run.save_checkpoint(tmp_path / f"{after}.ckpt")
        saved[after] = torch.load(tmp_path / f"{after}.ckpt", weights_only=True)
    kept, away = (saved[after]["state_dict"] for after in (False, True))
    assert not any("teacher" in name for name in kept)
    assert kept.keys() == away.keys()
    assert all(torch.equal(kept[name], away[name]) for name in kept)


def test_a_run_resumes_with_its_teacher_somewhere_else(tmp_path):
    fit(tmp_path, first := self_forcing()).save_checkpoint(tmp_path / "at.ckpt")
    ends = []
    for after in (False, True):
        model = self_forcing(teacher_offload=after)
        fit(tmp_path, model, max_epochs=2, ckpt_path=tmp_path / "at.ckpt")
        assert model.batches_seen == 2 * first.batches_seen
        ends.append(flat(model.generator))
    assert torch.equal(*ends)


@pytest.mark.parametrize("after", [False, True])
def test_a_teacher_in_bfloat16_scores_beside_float32_weights(tmp_path, after):
    exact, rounded = (
        self_forcing(teacher_dtype=dtype, teacher_offload=after)
        for dtype in ("float32", "bfloat16")
    )
    losses = [fit(tmp_path, m, 4).callback_metrics["val/loss_generator"] for m in (exact, rounded)]
    assert {p.dtype for p in rounded.teacher.parameters()} == {torch.bfloat16}
    learn = (rounded.generator, rounded.generator_ema, rounded.critic)
    assert {p.dtype for part in learn for p in part.parameters()} == {torch.float32}
    torch.testing.assert_close(*losses, rtol=0.1, atol=0)
    assert not torch.equal(*losses)


def test_a_critic_copied_from_the_teacher_keeps_its_exact_weights():
    model = self_forcing(teacher_dtype="bfloat16", critic=None)
    model.setup("fit")
    assert torch.equal(flat(model.critic), flat(backbone(1)))
    assert {p.dtype for p in model.critic.parameters()} == {torch.float32}


def test_a_teacher_is_built_in_its_format_and_not_rounded_afterwards(monkeypatch):
    """Built wide first, 14B would take 57 GB of memory on the way to 28."""
    seen, original = [], WanTransformer._initialise

    def spy(self):
        original(self)
        seen.append(next(self.parameters()).dtype)
        with ThreadPoolExecutor() as others:  # a writer or a decoder may be at work meanwhile
            elsewhere.append(others.submit(torch.zeros, 1).result().dtype)

    elsewhere = []
    model = self_forcing(teacher_dtype="bfloat16")
    monkeypatch.setattr(WanTransformer, "_initialise", spy)
    model.build_critic = partial(backbone, 2)
    model.build_teacher = partial(backbone, 1)
    model.setup("fit")
    assert seen == [torch.bfloat16, torch.float32]
    assert set(elsewhere) == {torch.float32}
