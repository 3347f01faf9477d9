"""Back-propagation chunk by chunk: the same gradients, in the memory of one chunk."""

from functools import partial

import pytest
import torch
from torch.optim import AdamW
from training_toy import ClipData, backbone, self_forcing, trainer

from lightning_adastate.anchors import AdaptiveAnchor, EMAAnchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.losses import DMDLoss, HorizonWeighting
from lightning_adastate.rollouts import (
    ContinuedRollouts,
    JointRollouts,
    LongRollouts,
    NoisedData,
)
from lightning_adastate.schedules import DiagonalSchedule, FewStepSchedule, RollingSchedule

STEPS = (1000, 800, 500)
FEW = FewStepSchedule(1, steps=STEPS, shift=1.0)
JOINT = {
    "anchor": StaticAnchor(1),
    "cache": RelativisticCache(window_frames=4),
    "schedule": RollingSchedule(1, steps=STEPS, shift=1.0),
}
CASES = {
    "fresh": lambda: {"anchor": AdaptiveAnchor(1)},
    "given": lambda: {"anchor": AdaptiveAnchor(1), "context_frames": 2},
    "ema": lambda: {"anchor": EMAAnchor(1, decay=0.5)},
    "own first steps": lambda: {
        "schedule": FewStepSchedule(1, steps=STEPS, first_chunk_steps=(999,))
    },
    "diagonal": lambda: {
        "anchor": StaticAnchor(1),
        "schedule": DiagonalSchedule(1, steps=((1000, 700, 300), (1000, 300)), shift=1.0),
    },
    "long": lambda: {"rollouts": LongRollouts(8, first_chunk="noised")},
    "continued": lambda: {
        "rollouts": ContinuedRollouts(11, old_frames=2, switch="recache", switch_frames=2),
        "anchor": StaticAnchor(1),
    },
    "noised data": lambda: {"rollouts": NoisedData(), "anchor": StaticAnchor(0)},
    "joint": lambda: {
        "rollouts": JointRollouts(FEW, probability=0.6, max_frames=7, first_chunk="given"),
        **JOINT,
    },
}


class Everywhere(DMDLoss):
    """A loss with a gradient at all frames, whether they are to learn or not."""

    def forward(self, video_BFCHW, networks, draw, **options):
        out = super().forward(video_BFCHW, networks, draw, **options)
        return out._replace(loss=out.loss + 1e-3 * video_BFCHW.square().sum())


def gradients(path, backward, options, batches):
    """The generator's gradients of every batch, weights held still."""
    model = self_forcing(
        backward=backward,
        generator_interval=1,
        critic_rollout="shared",
        loss=Everywhere(HorizonWeighting(2.0), guidance=0.0, shift=1.0),
        **options,
    )
    found = []

    def write_down():
        parameters = list(model.generator.named_parameters())
        found.append({name: p.grad.clone() for name, p in parameters if p.grad is not None})
        model.generator.zero_grad()
        return torch.zeros(())

    model.step_generator = write_down
    trainer(path).fit(model, ClipData(2 * batches, val_count=0))
    return found


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_the_whole_rollout(case, tmp_path):
    batches = 4 if "rollouts" in CASES[case]() else 2  # those draw a place, or go on
    whole, chunks = (
        gradients(tmp_path, backward, CASES[case](), batches) for backward in ("whole", "chunks")
    )
    assert len(whole) == batches
    for expected, got in zip(whole, chunks, strict=True):
        assert expected.keys() == got.keys()
        for name, theirs in expected.items():
            scale = max(float(theirs.norm()), 1e-9)
            assert float((got[name] - theirs).norm()) <= 1e-6 * scale + 1e-9, name


class Saved:
    """Count the bytes that graphs hold at once."""

    def __init__(self):
        self.now = self.peak = 0

    def pack(self, tensor):
        return Held(self, tensor)

    def measure(self):
        return torch.autograd.graph.saved_tensors_hooks(self.pack, lambda held: held.tensor)


class Held:
    def __init__(self, count, tensor):
        self.count, self.tensor = count, tensor
        self.size = tensor.numel() * tensor.element_size()
        count.now += self.size
        count.peak = max(count.peak, count.now)

    def __del__(self):
        self.count.now -= self.size


@pytest.mark.parametrize(("backward", "grows"), [("whole", True), ("chunks", False)])
def test_memory_of_graphs_is_that_of_one_chunk(backward, grows, tmp_path):
    peaks = []
    for frames in (5, 10):
        saved = Saved()
        model = self_forcing(
            backward=backward,
            num_frames=frames,
            generator_interval=1,
            exit_step="last",
            anchor=StaticAnchor(0),
        )
        learn = model.learn_generator

        def spy(*args, learn=learn, saved=saved):
            with saved.measure():
                return learn(*args)

        model.learn_generator = spy
        trainer(tmp_path).fit(model, ClipData(2, val_count=0))
        assert saved.now == 0
        peaks.append(saved.peak)
    assert (peaks[1] > 1.8 * peaks[0]) == grows
    assert grows or peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize("kv_gradient", ["straight_through", "state", "all"])
def test_chunks_that_pass_gradients_on_are_refused(kv_gradient):
    with pytest.raises(ValueError, match=f"needs `kv_gradient` 'detach': with '{kv_gradient}'"):
        self_forcing(backward="chunks", kv_gradient=kv_gradient)


def test_gradients_through_the_cache_are_refused_where_the_cache_has_no_graph():
    schedule = DiagonalSchedule(1, steps=((1000, 500),))
    with pytest.raises(ValueError, match="DiagonalSchedule caches what comes after the exit pass"):
        self_forcing(schedule=schedule, anchor=StaticAnchor(0), kv_gradient="all")


class Learned(StaticAnchor):
    def __init__(self):
        super().__init__(1)
        self.scale = torch.nn.Parameter(torch.tensor(0.5))


def test_an_anchor_with_parameters_is_refused():
    with pytest.raises(ValueError, match="Learned has parameters, and what they made in earlier"):
        self_forcing(backward="chunks", anchor=Learned())


def test_accumulated_batches_add_up(tmp_path):
    ends = []
    for backward in ("whole", "chunks"):
        model = self_forcing(backward=backward, accumulate=2, exit_step="last")
        model.build_optimizer = partial(AdamW, lr=1e-3, betas=(0.5, 0.9))
        trainer(tmp_path).fit(model, ClipData(8, val_count=0))
        ends.append(torch.cat([p.detach().flatten() for p in model.generator.parameters()]))
    assert not torch.equal(ends[0], torch.cat([p.flatten() for p in start()]))
    torch.testing.assert_close(ends[0], ends[1], atol=1e-5, rtol=0)


def start():
    return [p.detach() for p in backbone().parameters()]
