"""Predicted memory is that of real tensors in the same run, for every stage, known or not."""

import copy
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.losses import FlowMatchingLoss, SiDLoss
from lightning_adastate.memory.hollow import Hollow, rehearsing
from lightning_adastate.memory.live import LiveBytes, tensor_bytes
from lightning_adastate.memory.rehearsal import (
    Sizes,
    extrapolated,
    networks_of,
    rehearse_fit,
    shortened,
)
from lightning_adastate.rollouts import (
    ContinuedRollouts,
    JointRollouts,
    LongRollouts,
    NoisedData,
)
from lightning_adastate.schedules import FewStepSchedule, RollingSchedule
from lightning_adastate.training import (
    CausalFlowMatching,
    ConsistencyDistillation,
    FlowMatching,
    ODERegression,
)
from lightning_adastate.training.base import StreamModule

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import memory as bench

sys.path.pop(0)

FRAMES = 6
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
QUICK = ("flow_matching", "causal", "ode", "consistency", "own")


def parallel(kind, **options):
    if kind is not OwnStage:
        options = {"optimizer": torch.optim.AdamW, **options}
    return kind(bench.network(2, recompute=False), **bench.parts(**options))


def distilled(backward="whole", **options):
    return bench.self_forcing(backward, recompute=False, **{"num_frames": FRAMES, **options})


class OwnStage(StreamModule):
    """A stage that nobody knows: automatic optimisation, two networks, an optimiser of its own."""

    def __init__(self, backbone, **options):
        super().__init__(backbone, **options)
        self.second = copy.deepcopy(backbone)

    def training_step(self, batch, batch_idx):
        latents = self.codec.encode(batch["video"])
        text = self.encode_text(batch["prompts"])
        time = torch.full(latents.shape[:2], 500.0)
        loss = 0.0
        for network in (self.generator.backbone, self.second):
            out = network(latents, timestep_BF=time, text=network.text_kv(text))
            loss = loss + out.velocity_BFCHW.square().mean()
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


STAGES = {
    "flow_matching": partial(parallel, FlowMatching, loss=FlowMatchingLoss(1.0), ema_decay=0.9),
    "teacher_forcing": partial(
        parallel, FlowMatching, loss=FlowMatchingLoss(1.0), mode="teacher_forcing", accumulate=2
    ),
    "causal": partial(parallel, CausalFlowMatching, loss=FlowMatchingLoss(1.0)),
    "ode": partial(parallel, ODERegression, context="clean"),
    "consistency": partial(parallel, ConsistencyDistillation, negative_prompt="ugly"),
    "own": partial(parallel, OwnStage),
    "whole": distilled,
    "chunks": partial(distilled, "chunks", accumulate=2),
    "fresh_prompts": partial(distilled, critic_prompts="fresh", generator_interval=1),
    "through_the_networks": partial(distilled, loss=SiDLoss(guidance=0.0, shift=1.0)),
    "continued": partial(
        distilled, rollouts=ContinuedRollouts(max_frames=12, old_frames=3), critic_warmup=3
    ),
    "long": partial(distilled, "chunks", rollouts=LongRollouts(max_frames=FRAMES)),
    "noised_data": partial(distilled, anchor=StaticAnchor(1), rollouts=NoisedData()),
    "joint": partial(
        distilled,
        anchor=StaticAnchor(1),
        schedule=RollingSchedule(3, steps=(1000, 500), shift=1.0),
        rollouts=JointRollouts(FewStepSchedule(3, steps=(1000, 500), shift=1.0), probability=1.0),
    ),
}


LATER = ("continued", "joint", "fresh_prompts")
"""Stages whose first batches take less than later ones."""


def both(build, precision="32-true", steps=2):
    """Bytes that are predicted, and bytes that real tensors take."""
    module = build()
    with torch.device("meta"):
        module.setup("fit")
    predicted = rehearse_fit(module, Sizes(bench.ROWS, FRAMES), precision).peak
    real = build()
    batch = real.example_batch(["a calm sea"] * bench.ROWS, FRAMES)
    if hasattr(real, "busiest_batches"):
        real.batches_seen = real.busiest_batches[0] + 1 - real.accumulate
    real.setup("fit")
    beside = tensor_bytes(part for part in batch.values() if isinstance(part, torch.Tensor))
    return predicted, bench.measured_fit(real, precision, batch, steps) + beside


@pytest.mark.parametrize(
    "stage",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STAGES],
)
def test_training_takes_what_is_predicted(stage):
    predicted, measured = both(STAGES[stage], steps=4 if stage in LATER else 2)
    assert predicted == pytest.approx(measured, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("stage", ["consistency", "chunks"])
def test_every_precision_takes_what_is_predicted(stage, precision):
    predicted, measured = both(STAGES[stage], precision)
    assert predicted == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize(
    "precision", ["32-true", *(pytest.param(p, marks=pytest.mark.slow) for p in PRECISIONS[1:])]
)
def test_streaming_takes_what_is_predicted(precision):
    build = partial(parallel, FlowMatching, loss=FlowMatchingLoss(1.0))
    predicted, measured = bench.generate(build, precision)
    assert predicted == pytest.approx(measured, rel=0.03)


def fit_of(module, **options):
    with torch.device("meta"):
        module.setup("fit")
    rehearse = partial(rehearse_fit, sizes=Sizes(1, FRAMES), precision="32-true")
    return extrapolated(module, rehearse, **options)


def test_shortened_networks_say_what_whole_ones_do_moment_by_moment():
    module = parallel(
        ConsistencyDistillation, negative_prompt="ugly", teacher=deep, ema_decay=None
    )
    module.generator.backbone = bench.network(6, recompute=False)
    line, whole = fit_of(module), fit_of(module, whole=True)
    assert line.script == whole.script
    assert line.resident == whole.resident
    for one, other in zip(line.moments, whole.moments, strict=True):
        assert one.size == pytest.approx(other.size, rel=0.01)


def deep():
    return bench.network(5, recompute=False)


def test_an_offloaded_teacher_is_there_while_it_is_asked():
    stays, goes = (fit_of(distilled(teacher_offload=away)) for away in (False, True))
    size = stays.resident["teacher"]
    assert size == 4 * sum(p.numel() for p in bench.network(6, recompute=False).parameters())
    assert "teacher" not in goes.resident
    for doing, apart in (("teacher", 0), ("backward pass", size)):
        most = [max(m.size for m in r.moments if m.doing == doing) for r in (stays, goes)]
        assert most[0] - most[1] == apart


def test_gradients_of_earlier_batches_of_a_step_wait():
    build = partial(parallel, FlowMatching, loss=FlowMatchingLoss(1.0))
    once, waits = (fit_of(build(accumulate=n)) for n in (1, 2))
    learn = sum(p.numel() for p in bench.network(2, recompute=False).parameters())
    first = [next(m for m in r.moments if m.doing == "generator").size for r in (once, waits)]
    assert first[1] - first[0] == 4 * learn


def test_memory_is_counted_once_for_views_and_given_back():
    with LiveBytes() as live:
        whole = torch.zeros(100)
        part = whole[:10]
        assert live.now == 400
        del whole
        assert live.now == 400
        del part
        assert live.now == 0
        assert live.peak == 400
        live.mark()
        assert live.peak == 0


def test_memory_that_was_there_before_is_not_counted():
    before = torch.zeros(100)
    with LiveBytes() as live:
        before.add_(1.0)
        view = before[:50]
        assert (live.now, live.peak, view.shape) == (0, 0, (50,))


def test_large_tensors_have_a_shape_and_small_ones_values():
    with rehearsing() as live:
        large = torch.zeros(100_000)
        for _ in range(2):  # the second time from memory
            twice = large.view(100, 1000) + 1.0
        drawn = torch.randint(0, 7, (1,), generator=torch.Generator().manual_seed(3))
        assert isinstance(large, Hollow)
        assert isinstance(twice, Hollow)
        assert (twice.shape, twice.device.type) == ((100, 1000), "cpu")
        assert live.now == 800_000
        assert int(drawn) in range(7)
        assert bool(torch.isfinite(large).all())
        assert large.add_(1.0) is large
        del large, twice
        assert live.now == 0
    with pytest.raises(RuntimeError, match="after its rehearsal"):
        torch.zeros(1) + Hollow(torch.empty(3, device="meta"))


def test_a_rehearsal_changes_nothing():
    module = distilled()
    module.setup("fit")
    before = copy.deepcopy(module.state_dict())
    fit_of(module)
    assert [each.num_layers for each in networks_of(module).values()] == [4, 4, 4, 6]
    assert all(p.grad is None for p in module.parameters())
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_a_rehearsal_can_be_stopped_as_any_program(monkeypatch):
    """A training takes signals to save what it has; here there is nothing to save, and minutes to wait for."""
    module = distilled()
    heard = []
    step = type(module).training_step

    def listening(*args):
        heard.append(signal.getsignal(signal.SIGINT))
        return step(*args)

    monkeypatch.setattr(type(module), "training_step", listening)
    before = signal.getsignal(signal.SIGINT)
    fit_of(module)
    assert heard
    assert set(heard) == {before}


def test_a_shortened_copy_does_not_copy_what_is_long():
    short = shortened(distilled(), {4: 2})
    assert [len(each.blocks) for each in networks_of(short).values()] == [2, 2]
