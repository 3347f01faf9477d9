"""Self-forcing: recorded gradients, counts, the average."""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file
from tiny import GOLDEN, golden_backbone
from training_toy import ClipData, self_forcing, trainer

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.losses import DMDLoss, NoiseDraw
from lightning_adastate.noise import CounterNoise, NoiseKey, RecordedNoise
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.training import SelfForcing


@pytest.mark.parametrize("exit_step", [0, 3])
def test_a_training_rollouts_gradients_equal_the_recording(exit_step):
    case = load_file(GOLDEN / f"train_exit{exit_step}.safetensors")
    streamer = Streamer(
        golden_backbone(),
        anchor=StaticAnchor(0),
        cache=SlidingCache(budget_frames=21),
        schedule=FewStepSchedule(3, commit_noise="table"),
    )
    names = iter(sorted(name for name in case if name.startswith("drawn.")))
    draws = {}
    for chunk in range(3):
        draws[NoiseKey(chunk, 0, "content")] = case["noise"][:, 3 * chunk : 3 * chunk + 3]
        steps = [*range(1, exit_step + 1), len(streamer.schedule.passes(chunk))]
        for step in steps:
            draws[NoiseKey(chunk, step, "content")] = case[next(names)][None]
    state = streamer.start(case["text"], latent_shape=(16, 8, 12))
    latents, _ = streamer.rollout(
        state,
        3,
        noise=RecordedNoise(draws),
        exit_step=exit_step,
        kv_gradient="straight_through",
    )
    torch.testing.assert_close(latents.detach(), case["latents"], atol=1e-5, rtol=0)
    loss = (latents.double() * case["loss_weight"].double()).square().mean()
    loss.backward()
    assert abs(loss.item() / case["loss"].item() - 1.0) <= 1e-6
    worst = {}
    for name, parameter in streamer.backbone.named_parameters():
        theirs = case[f"grad.model.{name}"]
        worst[name] = float((parameter.grad - theirs).norm() / theirs.norm())
    assert max(worst.values()) <= 1e-5


class Recorder(Callback):
    """Writes down weights after every batch."""

    def __init__(self):
        self.generator, self.average, self.critic, self.steps = [], [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.generator.append(flat(pl_module.generator))
        self.critic.append(flat(pl_module.critic))
        self.steps.append(pl_module.global_step)
        if pl_module.generator_ema is not None:
            self.average.append(flat(pl_module.generator_ema))


def flat(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def fit(path, model, count=12, **options):
    recorder = Recorder()
    trainer(path, callbacks=[recorder, *options.pop("callbacks", [])], **options).fit(
        model, ClipData(count, val_count=0)
    )
    return recorder


def moved(weights):
    """In which batches the weights changed, the first one left out."""
    return [not torch.equal(a, b) for a, b in itertools.pairwise(weights)]


def test_global_step_counts_generator_steps(tmp_path):
    model = self_forcing(generator_interval=3, critic_warmup=1)
    before = flat(model.generator)
    seen = fit(tmp_path, model, 16)
    assert seen.steps == [0, 1, 1, 1, 2, 2, 2, 3]
    assert torch.equal(seen.generator[0], before)
    assert moved(seen.generator) == [True, False, False, True, False, False, True]
    assert all(moved(seen.critic))


def test_max_steps_stops_after_that_many_generator_steps(tmp_path):
    model = self_forcing(generator_interval=2)
    seen = fit(tmp_path, model, 16, max_epochs=-1, max_steps=3)
    assert seen.steps == [1, 1, 2, 2, 3]


def test_the_teacher_is_frozen_and_is_not_the_critic(tmp_path):
    model = self_forcing(teacher=None, critic=None)
    generator = flat(model.generator.backbone)
    fit(tmp_path, model)
    assert torch.equal(flat(model.teacher), generator), "a copy of the generator as it was"
    assert not torch.equal(flat(model.critic), generator)
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_the_average_moves_on_generator_steps_only_and_has_the_closed_form(tmp_path):
    model = self_forcing(generator_interval=2, ema_decay=0.75)
    expected = flat(model.generator)
    seen = fit(tmp_path, model)
    for batch in range(6):
        if batch % 2 == 0:
            expected = 0.75 * expected + 0.25 * seen.generator[batch]
        torch.testing.assert_close(seen.average[batch], expected, atol=1e-6, rtol=0)
    assert model.streamer is model.generator_ema


def test_the_average_begins_where_it_is_told_to_with_nothing_of_the_first_weights(tmp_path):
    """Generator steps 1 and 2 are copied; from step 3 the closed form holds, begun at step 2's weights."""
    model = self_forcing(generator_interval=1, ema_decay=0.75, ema_start=2)
    seen = fit(tmp_path, model)
    for batch in (0, 1):
        assert torch.equal(seen.average[batch], seen.generator[batch])
    expected = seen.generator[1]
    for batch in range(2, 6):
        expected = 0.75 * expected + 0.25 * seen.generator[batch]
        torch.testing.assert_close(seen.average[batch], expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="`ema_start` must be 0 or more, got -1"):
        self_forcing(ema_decay=0.9, ema_start=-1)


def test_accumulating_batches_is_a_larger_batch(tmp_path):
    """With the draws of rows equal, two batches of 2 give the gradient of one batch of 4."""

    class SameDraws(SelfForcing):
        def rollout(self, text_BSD, given_BFCHW, phase, *args, **options):
            seen, self.batches_seen = self.batches_seen, 0
            out = super().rollout(text_BSD, given_BFCHW, phase, *args, **options)
            self.batches_seen = seen
            return out

        def generator_for(self, phase, *, all_ranks_alike=False):
            return torch.Generator().manual_seed(7)

    class SameNoise(CounterNoise):
        def draw(self, key, *, seed, stream_ids, shape_FCHW):
            ids = [0] * len(stream_ids)
            return super().draw(key, seed=seed, stream_ids=ids, shape_FCHW=shape_FCHW)

    class EqualRows(DMDLoss):
        def draw(self, video_BFCHW, generator):
            one = super().draw(video_BFCHW[:1], generator)
            rows = video_BFCHW.shape[0]
            return NoiseDraw(one.timestep_B.expand(rows), one.noise_BFCHW.expand_as(video_BFCHW))

    grads = []
    for size, accumulate in ((4, 1), (2, 2)):
        model = self_forcing(
            accumulate=accumulate,
            noise=SameNoise(),
            loss=EqualRows(guidance=0.0, shift=1.0),
            generator_interval=1,
            exit_step="last",
        )
        model.__class__ = SameDraws
        norms = []
        model.clip_norm = None
        step = model.step_generator

        def spy(model=model, norms=norms, step=step):
            norms.append(
                torch.cat([p.grad.flatten() for p in model.generator.backbone.parameters()])
            )
            return step()

        model.step_generator = spy
        data = ClipData(4, val_count=0, batch_size=size)
        trainer(tmp_path).fit(model, data)
        assert len(norms) == 1
        grads.append(norms[0])
    torch.testing.assert_close(grads[0], grads[1], atol=1e-7, rtol=1e-4)


def test_given_frames_come_from_the_clip_and_stay(tmp_path):
    model = self_forcing(context_frames=2)
    seen = []
    model.loss.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    trainer(tmp_path).fit(model, ClipData(2, val_count=0))
    clip = ClipData(2).train_rows[(0, 0)].video_FCHW[None].float() / 255
    given = model.codec.encode(clip)[:, :2]
    assert any(torch.equal(row, given[0]) for row in seen[0][:, :2])
    assert seen[0].shape[1] == 5


def test_exit_steps_are_drawn_among_all_passes_or_fixed_to_the_last():
    model = self_forcing(exit_step="random")
    model.trainer = trainer("/tmp")
    drawn = set()
    for model.batches_seen in range(20):
        drawn.add(model.draw_exit_step("generator", model.generator.schedule, 1))
    assert drawn == {0, 1}
    model.exit_step = "last"
    assert model.draw_exit_step("generator", model.generator.schedule, 1) == 1


def test_a_rollout_is_a_function_of_batch_and_phase_and_rows_are_independent():
    model = self_forcing(exit_step="last")
    model.trainer = trainer("/tmp")
    text = model.encode_text(["a b", "c d"])
    with torch.no_grad():
        both = model.rollout(text, None, "generator").video_BFCHW
        one = model.rollout(text[:1], None, "generator").video_BFCHW
        again = model.rollout(text, None, "generator").video_BFCHW
        other = model.rollout(text, None, "critic").video_BFCHW
        model.batches_seen += 1
        later = model.rollout(text, None, "generator").video_BFCHW
    assert torch.equal(both, again)
    torch.testing.assert_close(both[:1], one, atol=1e-5, rtol=0)
    assert not torch.allclose(both, other, atol=1e-2)
    assert not torch.allclose(both, later, atol=1e-2)


def test_a_first_chunk_with_its_own_steps_is_left_at_its_own_step():
    schedule = FewStepSchedule(1, steps=(1000, 500), first_chunk_steps=(1000, 800, 600, 400))
    model = self_forcing(schedule=schedule)
    model.trainer = trainer("/tmp")
    drawn = set()
    for model.batches_seen in range(40):
        draw = partial(model.draw_exit_step, "generator", schedule)
        drawn.add((draw(0), draw(1), draw(1, given_chunks=1)))
    assert {first for first, _, _ in drawn} == {0, 1, 2, 3}
    assert {rest for _, rest, _ in drawn} == {0, 1}
    assert {first for _, _, first in drawn} == {0, 1, 2, 3}, "the first that is generated"
    with torch.no_grad():
        out = model.rollout(model.encode_text(["a"]), None, "generator")
    assert out.video_BFCHW.shape[1] == 5


class ScaledAnchor(StaticAnchor):
    """A third party's anchor with a parameter."""

    def __init__(self):
        super().__init__(1)
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def read(self, contents, window_start):
        shown = super().read(contents, window_start)
        return tuple(replace(kv, value_LBFTND=kv.value_LBFTND * self.scale) for kv in shown)


def test_parameters_of_an_anchor_join_the_generators_optimizer(tmp_path):
    model = self_forcing(anchor=ScaledAnchor())
    fit(tmp_path, model, 4)
    assert model.generator.anchor.scale.item() != 0.5
    assert model.generator_ema.anchor.scale.item() != 0.5


def test_guidance_asks_the_teacher_about_the_negative_prompt(tmp_path):
    model = self_forcing(loss=DMDLoss(guidance=2.0, shift=1.0), negative_prompt="ugly noise")
    asked = []
    encode = model.encode_text
    model.encode_text = lambda prompts: asked.append(list(prompts)) or encode(prompts)
    fit(tmp_path, model, 2)
    assert ["ugly noise"] in asked


def test_critic_steps_share_one_rollout_and_differ_in_noise(tmp_path):
    model = self_forcing(critic_steps=3, critic_rollout="shared", generator_interval=1)
    seen = []
    model.critic_loss.register_forward_pre_hook(lambda _, args: seen.append((args[0], args[2])))
    fit(tmp_path, model, 2)
    videos, draws = zip(*seen, strict=True)
    assert len(seen) == 3
    assert all(torch.equal(video, videos[0]) for video in videos)
    assert len({float(draw.timestep_B[0]) for draw in draws}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 5, "context_frames": 5}, "leaves nothing of `num_frames` 5"),
        ({"generator_interval": 0}, "`generator_interval` must be 1 or more, got 0"),
        ({"critic_steps": 2, "accumulate": 2}, "`critic_steps` 2 cannot go with `accumulate` 2"),
        ({"loss": DMDLoss(guidance=3.0)}, "guidance needs a `negative_prompt`"),
        ({"accumulate": 0}, "`accumulate` must be 1 or more, got 0"),
        ({"schedule": FewStepSchedule(3)}, "5 latent frames are not chunks of 3"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        self_forcing(**{"cache": RelativisticCache(window_frames=3), **options})


def test_clips_shorter_than_the_given_frames_are_refused(tmp_path):
    model = self_forcing(context_frames=4)
    with pytest.raises(ValueError, match="needs clips of 4 frames or more, got 3"):
        trainer(tmp_path).fit(model, ClipData(frames=3))


def test_streaming_needs_neither_teacher_nor_critic():
    def never():
        raise AssertionError("built")

    model = self_forcing(teacher=never, critic=never)
    chunks = list(model.stream(model.open_stream(["a b", "c"]), 2))
    assert chunks[1].video_BFCHW.shape == (2, 1, 3, 4, 6)
