"""Consistency distillation: one teacher step between neighbouring levels, and the average's answer behind it."""

from functools import partial

import pytest
import torch
from torch.optim import AdamW
from training_toy import ClipData, backbone, parts, trainer

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.backbones.masks import teacher_forcing_mask
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.losses import FlowMatchingLoss
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.training import ConsistencyDistillation
from lightning_adastate.training.consistency import distances, predict_x0
from lightning_adastate.training.parallel import causal_mask, masked_velocity

STEPS = (1000, 500)


FRAME_WISE = {"schedule": FewStepSchedule(1, steps=STEPS, shift=1.0)}


def stage(**options):
    defaults = {
        "anchor": StaticAnchor(0),
        "schedule": FewStepSchedule(2, steps=STEPS, shift=1.0),
        "cache": RelativisticCache(window_frames=4),
        "teacher": lambda: backbone(1),
        "guidance": 1.0,
        "steps": 4,
        "shift": 1.0,
        "ema_decay": 0.5,
        "optimizer": partial(AdamW, lr=1e-2, betas=(0.9, 0.99)),
    }
    model = ConsistencyDistillation(backbone(), **parts(**{**defaults, **options}))
    model.setup("fit")
    return model


def clips(rows=3, frames=6):
    return torch.randn(rows, frames, 12, 2, 3, generator=torch.Generator().manual_seed(1))


def asked(model, latents, number=0):
    """What the three networks are asked for one batch, and its loss."""
    model.trainer = trainer("/tmp")
    seen = {"student": [], "teacher": [], "average": []}
    networks = {"student": model.generator.backbone, "teacher": model.teacher}
    if model.generator_ema is not None:
        networks["average"] = model.generator_ema.backbone
    for name, network in networks.items():

        def spy(noisy, real=network.forward, name=name, **options):
            out = real(noisy, **options)
            seen[name].append({**options, "noisy": noisy, "velocity": out.velocity_BFCHW})
            return out

        network.forward = spy
    texts = model.encode_text(["a b"] * len(latents))
    seen["loss"] = model.clip_errors(model.generator, latents, texts, model.draws_of(number, "t"))[
        "loss"
    ]
    return seen


def levels(call):
    return call["timestep_BF"] / 1000


def wide(sigma):
    return sigma[:, :, None, None, None]


def test_the_average_is_asked_one_teacher_step_further():
    latents = clips()
    seen = asked(stage(), latents)
    (student,), (teacher,), (average,) = seen["student"], seen["teacher"], seen["average"]
    assert torch.equal(student["noisy"], teacher["noisy"])
    now, after = levels(student), levels(average)
    torch.testing.assert_close(now - after, torch.full_like(now, 0.25), rtol=0, atol=1e-6)
    step = student["noisy"] + wide(after - now) * teacher["velocity"]
    torch.testing.assert_close(average["noisy"], step, rtol=0, atol=1e-6)


def test_the_student_sees_the_real_clip_noised_and_its_clean_past():
    latents = clips(rows=20)
    (call,) = asked(stage(reads="all"), latents)["student"]
    assert torch.equal(call["mask_FF"], teacher_forcing_mask((2, 2, 2)))
    assert torch.equal(call["clean_latents_BFCHW"], latents)
    sigma = wide(levels(call))
    noise = (call["noisy"] - (1 - sigma) * latents) / sigma
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1.0) < 0.1
    chunks = call["timestep_BF"].unflatten(1, (3, 2))
    assert torch.equal(chunks[..., 0], chunks[..., 1])
    assert set(call["timestep_BF"].flatten().tolist()) == {1000.0, 750.0, 500.0, 250.0}


def test_the_loss_pulls_the_students_answer_to_the_averages():
    seen = asked(stage(), clips())
    (student,), (average,) = seen["student"], seen["average"]
    ours, theirs = (c["noisy"] - wide(levels(c)) * c["velocity"] for c in (student, average))
    expected = (ours - theirs).square().mean()
    torch.testing.assert_close(seen["loss"], expected, rtol=1e-4, atol=0)
    assert not average["velocity"].requires_grad
    assert student["velocity"].requires_grad


def test_behind_the_last_level_the_target_is_the_ends_own_point():
    """f(x, 0) = x: the boundary condition of a consistency model, whatever the network says."""
    network, text = backbone(), torch.zeros(1, 4, 8)
    x = torch.randn(1, 2, 12, 2, 3)
    end = predict_x0(masked_velocity(network, text), x, torch.zeros(1, 2))
    assert torch.equal(end, x)


def test_without_an_average_the_network_itself_makes_the_targets():
    model = stage(ema_decay=None)
    seen = asked(model, clips())
    assert len(seen["student"]) == 2
    assert (
        seen["student"][0]["velocity"].requires_grad
        != seen["student"][1]["velocity"].requires_grad
    )


def test_guidance_asks_the_teacher_twice():
    latents = clips()
    model = stage(guidance=3.0, negative_prompt="nothing")
    seen = asked(model, latents)
    texts = model.teacher.text_kv(model.encode_text(["a b"] * 3)).key_LBSND[0]
    positive, other = sorted(
        seen["teacher"], key=lambda call: not torch.equal(call["text"].key_LBSND[0], texts)
    )
    assert torch.equal(positive["text"].key_LBSND[0], texts)
    (student,), (average,) = seen["student"], seen["average"]
    velocity = other["velocity"] + 3.0 * (positive["velocity"] - other["velocity"])
    step = student["noisy"] + wide(levels(average) - levels(student)) * velocity
    torch.testing.assert_close(average["noisy"], step, rtol=0, atol=1e-5)
    assert not torch.equal(other["velocity"], positive["velocity"])


def test_given_frames_carry_no_loss():
    model, latents = stage(context_frames=2), clips()
    seen = asked(model, latents)
    (student,), (average,) = seen["student"], seen["average"]
    ours, theirs = (c["noisy"] - wide(levels(c)) * c["velocity"] for c in (student, average))
    expected = (ours - theirs)[:, 2:].square().mean()
    torch.testing.assert_close(seen["loss"], expected, rtol=1e-4, atol=0)


def test_one_draw_for_a_clip_gives_all_its_chunks_the_same_level():
    (call,) = asked(stage(draw="clip"), clips(rows=20))["student"]
    times = call["timestep_BF"]
    assert torch.equal(times, times[:, :1].expand(-1, 6))
    assert len(set(times[:, 0].tolist())) == 4


@pytest.mark.parametrize(("chunk", "first"), [(1, None), (2, 1), (1, 2)])
def test_frame_wise_and_odd_first_chunks(chunk, first):
    schedule = FewStepSchedule(
        chunk,
        steps=STEPS,
        first_chunk_frames=first,
        first_chunk_steps=(1000, 900, 500),
        shift=1.0,
    )
    size = first or chunk
    model = stage(schedule=schedule, cache=RelativisticCache(window_frames=3))
    assert [round(s, 2) for s in model.sigmas] == [1.0, 0.9, 0.75, 0.5, 0.25, 0.0]
    (call,) = asked(model, clips(rows=30, frames=size + 4))["student"]
    times = call["timestep_BF"]
    assert torch.equal(times[:, :size], times[:, :1].expand(-1, size))
    assert not torch.equal(times[:, size - 1], times[:, size])
    expected = causal_mask(model.generator, size + 4, "clean", "all")
    assert torch.equal(call["mask_FF"], expected)


def test_distances_are_per_frame_and_huber_is_linear_far_out():
    ours, target = torch.zeros(1, 2, 3, 2, 2), torch.zeros(1, 2, 3, 2, 2)
    target[:, 1] = 2.0
    assert distances(ours, target, "l2").tolist() == [[0.0, 4.0]]
    huber = distances(ours, target, "pseudo_huber")
    torch.testing.assert_close(huber, torch.tensor([[0.0, 2.0]]), rtol=1e-3, atol=1e-6)
    # sqrt(|d|^2 + c^2) - c with c = 0.00054 sqrt(12), divided by sqrt(12)
    expected = ((4.0 * 12 + 0.00054**2 * 12) ** 0.5 - 0.00054 * 12**0.5) / 12**0.5
    assert huber[0, 1].item() == pytest.approx(expected, rel=1e-6)


def test_pairs_may_be_weighed_by_their_distance():
    uniform, inverse = (
        asked(stage(interval_weighting=how), clips())["loss"] for how in ("uniform", "inverse")
    )
    torch.testing.assert_close(inverse, uniform * 4, rtol=1e-4, atol=0)


@pytest.mark.parametrize("chunk", [1, 5])
def test_it_trains_and_moves_the_average_but_not_the_teacher(tmp_path, chunk):
    model = stage(
        schedule=FewStepSchedule(chunk, steps=STEPS), cache=RelativisticCache(window_frames=5)
    )
    before = [p.clone() for p in model.teacher.parameters()]
    average = [p.clone() for p in model.generator_ema.parameters()]
    trainer(tmp_path, max_epochs=2).fit(model, ClipData())
    assert model.global_step == 12
    assert all(torch.equal(a, b) for a, b in zip(before, model.teacher.parameters(), strict=True))
    pairs = zip(average, model.generator_ema.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_the_teacher_is_a_copy_of_the_start_and_is_not_saved(tmp_path):
    model = stage(teacher=None, **FRAME_WISE)
    start = model.generator.backbone.head.head.weight.clone()
    run = trainer(tmp_path)
    run.fit(model, ClipData())
    assert torch.equal(model.teacher.head.head.weight, start)
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    assert not torch.equal(model.generator.backbone.head.head.weight, start)
    run.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in saved if name.startswith("teacher.")]


def test_a_solver_that_is_right_makes_the_loss_fall(tmp_path):
    """From a flow-matched start, answers at neighbouring levels come nearer to each other."""
    slow = partial(AdamW, lr=3e-3, betas=(0.9, 0.99))
    model = stage(teacher=None, optimizer=slow, **FRAME_WISE)
    model.trainer = trainer("/tmp")
    data = ClipData(batch_size=4)
    latents = clips(rows=4)
    text = model.encode_text(["a"] * 4)

    def score():
        with torch.no_grad():
            losses = [
                model.clip_errors(model.generator, latents, text, model.draws_of(i, "t"))["loss"]
                for i in range(6)
            ]
        return float(torch.stack(losses).mean())

    before = score()
    trainer(tmp_path, max_epochs=12).fit(model, data)
    assert score() < 0.7 * before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` must be 1 or more, got 0"),
        ({"shift": 0.0}, "`shift` must be positive, got 0.0"),
        ({"guidance": 2.0}, "`guidance` 2.0 needs a `negative_prompt`"),
        ({"context_frames": -1}, "`context_frames` must be 0 or more, got -1"),
        ({"context_frames": 3}, "3 latent frames are not chunks"),
    ],
)
def test_bad_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        stage(**options)


def test_its_velocity_is_that_of_flow_matching():
    """A network that knows the truth makes the loss zero: x0 = x - sigma v on both sides."""
    model, latents = stage(), clips()
    for network in (model.generator.backbone, model.generator_ema.backbone, model.teacher):

        def truth(noisy, real=network.forward, **options):
            sigma = wide((options["timestep_BF"] / 1000).clamp(min=1e-6))
            velocity = (noisy - latents) / sigma
            return real(noisy, **options)._replace(velocity_BFCHW=velocity)

        network.forward = truth
    model.trainer = trainer("/tmp")
    text = model.encode_text(["a"] * 3)
    loss = model.clip_errors(model.generator, latents, text, model.draws_of(0, "t"))["loss"]
    assert loss < 1e-8
    assert FlowMatchingLoss(1.0).table.sigmas[0] == model.sigmas[0]
