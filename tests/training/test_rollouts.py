"""Rollouts: what is scored is what streaming makes, and only what should learn does."""

import itertools
from dataclasses import replace

import pytest
import torch
from training_toy import ClipData, self_forcing, trainer

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.rollouts import (
    ContinuedRollouts,
    JointRollouts,
    LongRollouts,
    NoisedData,
)
from lightning_adastate.rollouts.recorder import RolloutRecorder
from lightning_adastate.schedules import DiagonalSchedule, FewStepSchedule, RollingSchedule
from lightning_adastate.streaming.events import prompt_switch
from lightning_adastate.training.randomness import fold_seed

STEPS = (1000, 800, 500)


def module(rollouts=None, **options):
    """A module in training, which leaves all chunks at their last pass."""
    model = self_forcing(rollouts=rollouts, **{"exit_step": "last", "ema_decay": None, **options})
    model.trainer = trainer("/tmp")
    return model


def prompts(model, *words):
    return model.encode_text(list(words) or ["a b", "c d"])


def streamed(model, chunks, phase="generator", text=None, change=lambda state: state):
    """The frames that plain streaming makes from the seed of the batch in hand."""
    text = prompts(model) if text is None else text
    state = model.generator.start(
        text,
        latent_shape=model.codec.latent_shape(*model.frame_size),
        seed=fold_seed(model.seed, model.batches_seen, phase),
    )
    made = model.generator.stream(change(state), chunks)
    return torch.cat([chunk.latents_BFCHW for chunk in made], dim=1)


def steps_of(model):
    """Write down each chunk that is stepped, and whether it has a graph."""
    seen, step = [], model.generator.step

    def spy(state, **options):
        seen.append((state.chunk, torch.is_grad_enabled()))
        return step(state, **options)

    model.generator.step = spy
    return seen


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


# -- long rollouts --------------------------------------------------------------------------------


def windows(model, places):
    """Rollouts of as many batches as bring every place at once, by the frame at which their window begins."""
    seen, found = steps_of(model), {}
    for model.batches_seen in range(40):
        if set(found) == set(places):
            break
        seen.clear()
        made = model.rollout(prompts(model), None, "generator")
        found[seen[-1][0] - 4] = (model.batches_seen, made, list(seen))
    return found


def test_a_long_rollout_scores_what_streaming_makes_at_a_random_place():
    model = module(LongRollouts(9))
    found = windows(model, range(5))
    assert set(found) == {0, 1, 2, 3, 4}, "windows of 5 in 9 frames"
    for start, (model.batches_seen, made, seen) in found.items():
        assert made.video_BFCHW.shape[1] == 5
        assert seen == [(chunk, chunk >= start) for chunk in range(start + 5)]
        close(made.video_BFCHW.detach(), streamed(model, start + 5)[:, start:])


@pytest.mark.parametrize("first_chunk", ["noised", "given"])
def test_a_long_rollouts_first_chunk_can_be_an_image_that_learns_nothing(first_chunk):
    plain = windows(module(LongRollouts(7)), range(3))
    model = module(LongRollouts(7, first_chunk=first_chunk))
    for start, (_, made, seen) in windows(model, range(3)).items():
        video, other = made.video_BFCHW.detach(), plain[start][1].video_BFCHW.detach()
        close(video[:, 1:], other[:, 1:])
        if start == 0:
            close(video, other)
            assert made.constant_frames == 0
            continue
        # This codec's decoding clamps pixels to [0, 1], which are latents in [-2, 2].
        close(video[:, :1], other[:, :1].clamp(-2, 2))
        assert not torch.allclose(video[:, :1], other[:, :1], atol=1e-3)
        counts = {"noised": (0, 1), "given": (1, 0)}[first_chunk]
        assert (made.given_frames, made.unscored_frames) == counts
        assert [chunk for chunk, grad in seen if grad] == list(range(start + 1, start + 5))


def test_given_frames_leave_the_window_as_it_moves_on():
    model = module(LongRollouts(9), context_frames=2)
    clip = torch.randn(2, 2, 12, 2, 3, generator=torch.Generator().manual_seed(3))
    seen = set()
    for model.batches_seen in range(20):
        if seen == {0, 1, 2}:
            break
        made = model.rollout(prompts(model), clip, "generator")
        left = made.given_frames
        close(made.video_BFCHW[:, :left].detach(), clip[:, 2 - left :])
        seen.add(left)
    assert seen == {0, 1, 2}


# -- continued rollouts ---------------------------------------------------------------------------


def test_a_sequence_is_rolled_on_as_one_stream():
    model = module(ContinuedRollouts(11, old_frames=2))
    whole = streamed(model, 11)
    lengths = []
    for start, stop in ((0, 5), (3, 8), (6, 11)):
        words = prompts(model, "x", "y") if start else prompts(model)
        made = model.rollout(words, None, "generator")
        video = made.video_BFCHW.detach()
        expected = whole[:, start:stop].clone()
        if start:
            expected[:, :1] = expected[:, :1].clamp(-2, 2)
        close(video, expected)
        assert torch.equal(made.text_BSD, prompts(model)), "later prompts are not used"
        lengths.append((made.unscored_frames, made.persistent_state.first_frame))
        model.batches_seen += 1
    assert lengths == [(0, 5), (2, 8), (2, 11)]
    made = model.rollout(prompts(model), None, "generator")
    assert (made.unscored_frames, made.persistent_state.first_frame) == (0, 5), "the next sequence"
    assert not torch.allclose(made.video_BFCHW[:, :5], whole[:, :5], atol=1e-2)


def test_what_is_carried_has_no_graph_and_old_frames_learn_nothing():
    model = module(ContinuedRollouts(11, old_frames=2), kv_gradient="all")
    for _ in range(2):
        made = model.rollout(prompts(model), None, "generator")
    state = made.persistent_state
    tensors = [kv.key_LBFTND for kv in (*state.blocks, *state.anchor.values())]
    assert not any(t.requires_grad for t in (*tensors, state.recent_BFCHW, state.texts_PBSD))
    assert state.text_kv is None
    assert made.video_BFCHW.requires_grad
    weights = model.reweight(
        torch.ones(2, 5), made.video_BFCHW.detach(), unscored_frames=made.unscored_frames
    )
    assert weights.tolist() == [[0, 0, 1, 1, 1]] * 2


def test_generator_and_critic_roll_the_same_sequence_on():
    model = module(ContinuedRollouts(11, old_frames=2))
    model.rollout(prompts(model), None, "critic")
    made = model.rollout(prompts(model), None, "generator")
    close(made.video_BFCHW[:, 1:].detach(), streamed(model, 8, "critic")[:, 4:8])


def test_both_losses_score_under_the_sequences_prompt_and_its_old_frames(tmp_path):
    rollouts = ContinuedRollouts(14, old_frames=2, old_frames_are="given", switch="keep")
    options = {"critic_rollout": "shared", "generator_interval": 1, "anchor": StaticAnchor(1)}
    model = self_forcing(rollouts=rollouts, **options)
    made, given, asked = [], [], []

    def spy(*args, rollout=model.rollout, **options):
        for network in (model.teacher, model.critic):
            network.text_kv = lambda text, network=network: (
                asked.append((len(made), text)) or type(network).text_kv(network, text)
            )
        made.append(rollout(*args, **options))
        return made[-1]

    model.rollout = spy
    for loss in (model.loss, model.critic_loss):
        loss.register_forward_pre_hook(
            lambda _, args, options: given.append(options["given_frames"]), with_kwargs=True
        )
    trainer(tmp_path).fit(model, ClipData(8, val_count=0))
    assert given == [0, 0, 2, 2, 2, 2, 2, 2]
    assert [batch for batch, _ in asked] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert all(torch.equal(text, made[batch - 1].text_BSD) for batch, text in asked)
    texts = [out.text_BSD for out in made]
    assert sum(not torch.equal(*pair) for pair in itertools.pairwise(texts)) == 1


def test_another_number_of_rows_begins_another_sequence():
    model = module(ContinuedRollouts(11, old_frames=2))
    model.rollout(prompts(model), None, "generator")
    made = model.rollout(prompts(model, "a"), None, "generator")
    assert (made.video_BFCHW.shape[0], made.unscored_frames) == (1, 0)


@pytest.mark.parametrize("policy", ["keep", "recache", "rebase", "drop"])
def test_the_prompt_switches_once_in_a_sequence_to_that_of_the_batch(policy):
    rollouts = ContinuedRollouts(14, old_frames=2, switch=policy, switch_frames=2)
    model = module(rollouts, anchor=StaticAnchor(1))
    first, places = prompts(model), set()
    for seed in range(8):
        if places == {1, 2, 3}:
            break
        model.seed, model.persistent_state = seed, None
        videos, texts = [], []
        for batch in range(4):
            words = first if batch == 0 else prompts(model, f"e{batch}", f"f{batch}")
            made = model.rollout(words, None, "generator")
            videos.append(made.video_BFCHW.detach()[:, made.unscored_frames :])
            texts.append(made.text_BSD)
        changes = [b for b in (1, 2, 3) if not torch.equal(texts[b], texts[b - 1])]
        assert len(changes) == 1
        (batch,) = changes
        assert torch.equal(texts[batch], prompts(model, f"e{batch}", f"f{batch}"))
        places.add(batch)
        event = prompt_switch(5 + 3 * (batch - 1), 1, policy, frames=2)
        change = lambda state, event=event, new=texts[batch]: replace(
            state, texts_PBSD=torch.stack([first, new]), timeline=(event,)
        )
        close(torch.cat(videos, dim=1), streamed(model, 14, text=first, change=change))
    assert places == {1, 2, 3}


class Echo(PixelShuffleCodec):
    """A decoder with a memory: every picture has an echo of all frames before."""

    def empty(self):
        return {"echo": torch.zeros(1, 1, 12, 2, 3)}

    def decode(self, latents_BFCHW, state):
        echo, frames = state["echo"], []
        for frame in latents_BFCHW.split(1, dim=1):
            frames.append(frame + 0.5 * echo)
            echo = frame + 0.7 * echo
        return super().decode(torch.cat(frames, dim=1), {})[0], {"echo": echo}


@pytest.mark.parametrize("rollouts", [LongRollouts(11, first_chunk="noised"), None])
def test_image_latents_come_from_what_a_viewer_of_the_stream_sees(rollouts):
    continues = rollouts is None
    model = module(rollouts or ContinuedRollouts(11, old_frames=2), codec=Echo(2))
    places = set()
    for batch in range(3 if continues else 6):
        model.batches_seen = 0 if continues else batch
        whole = streamed(model, 11)
        video, _ = model.codec.decode(whole, model.codec.empty())
        made = model.rollout(prompts(model), None, "generator")
        ours = made.video_BFCHW.detach()
        (start,) = [
            s for s in range(7) if torch.allclose(ours[:, 1:], whole[:, s + 1 : s + 5], atol=1e-4)
        ]
        expected = model.codec.encode(video[:, start : start + 1]) if start else whole[:, :1]
        close(ours[:, :1], expected)
        places.add(start)
    assert places == {0, 3, 6} if continues else len(places) > 2


# -- noised data ----------------------------------------------------------------------------------


def noised(clip, **options):
    model = module(NoisedData(), anchor=StaticAnchor(0), **options)
    seen = []
    model.generator.backbone.register_forward_pre_hook(
        lambda _, args, given: seen.append({**given, "noisy": args[0]}), with_kwargs=True
    )
    made = model.rollout(prompts(model), clip, "generator")
    (call,) = seen
    return model, made, call


def test_clips_are_noised_to_levels_of_the_schedule_chunk_by_chunk():
    clip = torch.randn(2, 5, 12, 2, 3, generator=torch.Generator().manual_seed(3))
    schedule = FewStepSchedule(1, steps=STEPS, shift=1.0)
    _, made, call = noised(clip, schedule=schedule, context_frames=1)
    times = call["timestep_BF"]
    assert set(times[:, 1:].flatten().tolist()) <= set(STEPS)
    assert len(set(times[0, 1:].tolist())) > 1 or len(set(times[1, 1:].tolist())) > 1
    assert times[:, 0].tolist() == [0, 0]
    assert made.given_frames == 1
    assert torch.equal(made.video_BFCHW[:, :1], clip[:, :1])
    assert made.video_BFCHW.requires_grad
    sigma = times[:, :, None, None, None] / 1000
    noise = (call["noisy"] - (1 - sigma) * clip) / sigma.clamp(min=1e-3)
    assert 0.8 < noise[:, 1:].std() < 1.2


def test_a_noised_chunk_is_taken_for_the_x0_that_a_window_of_noisy_chunks_gives():
    clip = torch.randn(2, 5, 12, 2, 3, generator=torch.Generator().manual_seed(3))
    model, made, call = noised(clip)
    backbone, noisy, times = model.generator.backbone, call["noisy"], call["timestep_BF"]
    for last in range(5):
        # Causal: the last of the frames up to here, alone with those before it.
        with torch.no_grad():
            parallel = backbone(
                noisy[:, : last + 1],
                timestep_BF=times[:, : last + 1],
                text=backbone.text_kv(prompts(model)),
                mask_FF=torch.ones(last + 1, last + 1).tril().bool(),
            ).velocity_BFCHW[:, -1]
        sigma = times[:, last, None, None, None] / 1000
        close(made.video_BFCHW[:, last].detach(), noisy[:, last] - sigma * parallel)


def test_noised_data_trains_on_whole_clips(tmp_path):
    model = self_forcing(rollouts=NoisedData(), anchor=StaticAnchor(0), generator_interval=1)
    before = [p.detach().clone() for p in model.generator.parameters()]
    trainer(tmp_path).fit(model, ClipData(4, val_count=2))
    after = list(model.generator.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# -- joint rollouts -------------------------------------------------------------------------------


def joint(probability=1.0, others=None, **options):
    rollouts = JointRollouts(
        FewStepSchedule(1, steps=STEPS, shift=1.0), others=others, probability=probability
    )
    for name in ("max_frames", "first_chunk"):
        if name in options:
            setattr(rollouts, name, options.pop(name))
    return module(
        rollouts,
        anchor=StaticAnchor(1),
        cache=RelativisticCache(window_frames=4),
        schedule=RollingSchedule(1, steps=STEPS, shift=1.0),
        num_frames=options.pop("num_frames", 7),
        **options,
    )


def passes_of(model):
    """Write down what each denoise pass takes its frames for, and whether it has a graph."""
    seen = []

    def hook(_, args, given, out):
        if not given.get("return_kv"):
            sigma = given["timestep_BF"][:, :, None, None, None] / 1000
            seen.append(((args[0] - sigma * out.velocity_BFCHW).detach(), torch.is_grad_enabled()))

    model.generator.backbone.register_forward_hook(hook, with_kwargs=True)
    return seen


def test_every_third_window_has_a_graph_and_they_cover_the_video_once():
    model, places = joint(), set()
    seen = passes_of(model)
    for model.batches_seen in range(12):
        if places == {0, 1, 2}:
            break
        seen.clear()
        video = model.rollout(prompts(model), None, "generator").video_BFCHW.detach()
        drawn = [index for index, (_, grad) in enumerate(seen) if grad]
        first = drawn[0]
        assert drawn == list(range(first, first + 3 * len(drawn), 3))
        windows = [seen[index][0] for index in drawn]
        assert [window.shape[1] for window in windows] == [first + 1, *[3] * (len(drawn) - 1)]
        whole = torch.cat(windows, dim=1)
        assert 7 <= whole.shape[1] <= 9
        close(video, whole[:, :7])
        # A window's first frame is at its last level there: the very frame that streaming makes.
        finished = [frame for frame in range(7) if (frame - first) % 3 == 1 and frame >= first - 2]
        close(video[:, finished], streamed(model, 7)[:, finished])
        places.add(first)
    assert places == {0, 1, 2}


def test_a_joint_rollout_can_score_the_end_of_a_longer_one():
    model = joint(max_frames=9, first_chunk="noised")
    starts = set()
    for model.batches_seen in range(12):
        if starts == {0, 1, 2}:
            break
        made = model.rollout(prompts(model), None, "generator", keep_recomputes=True)
        video, frames = made.video_BFCHW.detach(), streamed(model, 3)
        assert video.shape[1] == 7
        places = [
            start
            for start in (1, 2)
            if torch.allclose(video[:, 0], frames[:, start].clamp(-2, 2), atol=1e-5)
        ]
        assert made.unscored_frames == len(places)
        ends = [each.first + each.recompute().shape[1] for each in made.recomputes]
        assert min(ends) > 0, "windows before it learn nothing"
        starts.update(places or [0])
    assert starts == {0, 1, 2}


def test_the_other_batches_are_rolled_out_chunk_by_chunk():
    model = joint(probability=0.0)
    plain = module(
        None,
        anchor=StaticAnchor(1),
        cache=RelativisticCache(window_frames=4),
        schedule=FewStepSchedule(1, steps=STEPS, shift=1.0),
        num_frames=7,
    )
    made, expected = (m.rollout(prompts(m), None, "generator") for m in (model, plain))
    assert torch.equal(made.video_BFCHW, expected.video_BFCHW)
    model = joint(probability=0.5, exit_step="random")
    exits = set()
    for model.batches_seen in range(30):
        if exits == {None, 0, 1, 2}:
            break
        exits.add(model.rollout(prompts(model), None, "critic").exit_step)
    assert exits == {None, 0, 1, 2}


# -- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rollouts", [None, NoisedData()])
def test_the_first_generated_chunk_learns_at_its_own_steps_behind_given_frames(rollouts):
    schedule = FewStepSchedule(1, steps=(500,), first_chunk_steps=(900, 700), shift=1.0)
    model = module(rollouts, schedule=schedule, anchor=StaticAnchor(1), context_frames=1)
    seen, forward = [], model.generator.backbone.forward

    def spy(*inputs, timestep_BF, **options):
        seen.extend(timestep_BF.reshape(-1, timestep_BF.shape[-1]).round().tolist())
        return forward(*inputs, timestep_BF=timestep_BF, **options)

    model.generator.backbone.forward = spy
    model.rollout(prompts(model), torch.randn(2, 5, 12, 2, 3)[:, : 5 if rollouts else 1], "critic")
    if rollouts is None:
        assert seen[::2] == [[0.0], [900.0], [700.0], [0.0], *[[500.0], [0.0]] * 3]
    else:
        assert {row[1] for row in seen} <= {900.0, 700.0}
        assert {step for row in seen for step in row[2:]} == {500.0}


@pytest.mark.parametrize("cached", ["last_pass", "renoised", "clean"])
def test_training_caches_what_streaming_caches_under_a_diagonal_schedule(cached):
    schedule = DiagonalSchedule(
        1, steps=((1000, 700, 500, 200), (1000, 500, 200), (1000, 300)), cached=cached, shift=1.0
    )
    model = module(schedule=schedule, anchor=StaticAnchor(1), exit_step="random")
    asked = []
    model.draw_exit_step = lambda phase, schedule, chunk, given=0: asked.append(chunk) or 0
    made = model.rollout(prompts(model), None, "generator")
    assert asked == [0, 1, 2], "once for all chunks with as many passes"
    if cached != "last_pass":
        return
    state = model.generator.start(
        prompts(model), latent_shape=(12, 2, 3), seed=fold_seed(0, 0, "generator")
    )
    *_, last = model.generator.stream(state, 5)
    tape = RolloutRecorder(
        replace(model.request(prompts(model), None, "generator"), exit_of=lambda *_: 0)
    )
    tape.learn(5)
    close(tape.rollout().video_BFCHW.detach(), made.video_BFCHW.detach())
    for ours, theirs in zip(tape.state.blocks, last.state.blocks, strict=True):
        close(ours.key_LBFTND.detach(), theirs.key_LBFTND)


# -- refusals -------------------------------------------------------------------------------------

FEW = FewStepSchedule(1, steps=STEPS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollouts": LongRollouts(4)}, "`max_frames` must be whole chunks of 1 and at least"),
        (
            {"rollouts": LongRollouts(9, first_chunk="given"), "num_frames": 1},
            "`num_frames` 1 is a single chunk",
        ),
        (
            {"rollouts": LongRollouts(8), "schedule": FewStepSchedule(2, first_chunk_frames=1)},
            "needs chunks of one size, got a first chunk of 1 and others of 2",
        ),
        ({"rollouts": ContinuedRollouts(8, old_frames=5)}, "fewer than `num_frames` 5, got 5"),
        (
            {"rollouts": ContinuedRollouts(8, old_frames=3)},
            "`old_frames` 3 is more than the cache's window of 2",
        ),
        ({"rollouts": NoisedData()}, "cannot train the hidden state of AdaptiveAnchor"),
        (
            {
                "rollouts": NoisedData(1),
                "anchor": StaticAnchor(0),
                "schedule": FewStepSchedule(2),
                "num_frames": 4,
            },
            "`window_frames` 1 is less than a chunk of 2",
        ),
        ({"rollouts": JointRollouts(FEW)}, "as RollingSchedule, got FewStepSchedule"),
        (
            {
                "anchor": StaticAnchor(0),
                "schedule": RollingSchedule(1, steps=STEPS),
                "cache": RelativisticCache(window_frames=3),
            },
            "RollingSchedule denoises several together; use JointRollouts",
        ),
        (
            {
                "rollouts": JointRollouts(FewStepSchedule(2)),
                "anchor": StaticAnchor(0),
                "schedule": RollingSchedule(1, steps=STEPS),
                "cache": RelativisticCache(window_frames=3),
            },
            "`schedule` must have chunks of 1 frames as the joint one, got 2",
        ),
    ],
)
def test_what_cannot_be_rolled_out_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        self_forcing(**options)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`old_frames` must be 1 or more, got 0"):
        ContinuedRollouts(8, old_frames=0)
    with pytest.raises(ValueError, match="`frames` must be 1 or more to recache"):
        ContinuedRollouts(8, switch="recache", switch_frames=0)
    with pytest.raises(ValueError, match="`window_frames` must be 1 or more, got 0"):
        NoisedData(0)
    with pytest.raises(ValueError, match=r"`probability` must be in \[0, 1\], got 1.5"):
        JointRollouts(FEW, probability=1.5)


def test_validation_scores_complete_fresh_rollouts_whatever_training_does(tmp_path):
    scores = []
    for rollouts in (None, LongRollouts(9), ContinuedRollouts(8, old_frames=1)):
        model = self_forcing(rollouts=rollouts)
        (found,) = trainer(tmp_path).validate(model, ClipData(), verbose=False)
        scores.append(found)
        assert model.persistent_state is None
    assert scores[0] == scores[1] == scores[2]
