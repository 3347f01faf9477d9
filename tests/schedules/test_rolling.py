"""Joint denoising of a rolling window, against a naive recomputation in loops."""

import pytest
import torch
from tiny import LATENT, golden_backbone, text

from lightning_adastate.anchors import AdaptiveAnchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.flow import SigmaTable, add_noise, velocity_to_x0
from lightning_adastate.noise import CounterNoise, NoiseKey
from lightning_adastate.rope import rope_table, rotate
from lightning_adastate.schedules import RollingSchedule
from lightning_adastate.streaming.state_file import load_stream_state, save_stream_state
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import LivePositions, Window

STEPS = (1000, 600, 250)
FRAMES = 2


def model(kind=RelativisticCache, sink=2, budget=10, history=4, commit_window=6):
    return Streamer(
        golden_backbone(),
        anchor=StaticAnchor(sink),
        cache=kind(budget_frames=budget, history_frames=history),
        schedule=RollingSchedule(FRAMES, steps=STEPS, commit_window=commit_window),
    )


def naive(num_windows):
    """Rolling Forcing's inference from the paper and our notes, every pass recomputed from kept frames."""
    backbone, table, noise = golden_backbone(), SigmaTable(5.0), CounterNoise()
    prompt = backbone.text_kv(text())
    timesteps = table.warp(STEPS)
    sigmas = [float(table.sigma_at(torch.tensor(t))) for t in timesteps]
    grid = backbone.token_grid(*LATENT[1:])
    clean, memory, live = [], {}, {}

    def draw(block, step):
        key = NoiseKey(block, step, "content")
        return noise.draw(key, seed=0, stream_ids=(0,), shape_FCHW=(FRAMES, *LATENT))

    def window(frames):
        """Keys of (frame, index) pairs, rotated."""
        if not frames:
            return None
        places = tuple(float(place) for _, place in frames)
        turn = rope_table(places, *grid, backbone.head_dim, torch.device("cpu"))
        key = torch.cat([memory[frame][0] for frame, _ in frames], 2).flatten(2, 3)
        value = torch.cat([memory[frame][1] for frame, _ in frames], 2).flatten(2, 3)
        return Window(rotate(key, turn), value, key.shape[2], False)

    for index in range(num_windows):
        blocks = list(range(max(0, index - len(STEPS) + 1), index + 1))
        live[index] = draw(index, 0)
        start = blocks[0] * FRAMES
        context = list(range(start))[-2:] if start > 4 else list(range(start))
        sink = [frame for frame in (0, 1) if frame < start and frame not in context]
        places = [(f, start - len(context) - len(sink) + i) for i, f in enumerate(sink)]
        places += [(f, f) for f in context]
        level = [index - block for block in blocks]
        stacked = torch.cat([live[block] for block in blocks], 1)
        spread = [timesteps[step] for step in level for _ in range(FRAMES)]
        at = tuple(float(start + i) for i in range(stacked.shape[1]))
        out = backbone(
            stacked,
            timestep_BF=torch.tensor([spread]),
            text=prompt,
            positions=LivePositions(at, at),
            window=window(places),
        )
        sigma = torch.tensor([[sigmas[step] for step in level for _ in range(FRAMES)]])
        x0 = velocity_to_x0(out.velocity_BFCHW, stacked, sigma).split(FRAMES, 1)
        for block, step, latents in zip(blocks, level, x0, strict=True):
            if step + 1 < len(STEPS):
                live[block] = add_noise(latents, draw(block, step + 1), sigmas[step + 1])
                continue
            clean.append(latents)
            own = tuple(float(start + i) for i in range(FRAMES))
            read = [(f, f) for f in range(start)][-6:]
            kv = backbone(
                latents,
                timestep_BF=torch.zeros(1, FRAMES),
                text=prompt,
                positions=LivePositions(own, own),
                window=window(read),
                return_kv=True,
            ).kv
            for i in range(FRAMES):
                part = slice(i, i + 1)
                memory[start + i] = (kv.key_LBFTND[:, :, part], kv.value_LBFTND[:, :, part])
    return torch.cat(clean, 1)


def test_every_pass_sees_what_the_paper_says():
    """Budget 10 = sink 2 + window 2 + live 6; clean passes read 6 cached frames and no sink."""
    with torch.no_grad():
        expected = naive(10)
    streamer = model()
    state = streamer.start(text(), latent_shape=LATENT)
    got = torch.cat([chunk.latents_BFCHW for chunk in streamer.stream(state, 8)], 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


def test_a_pass_of_the_ladder_takes_a_new_chunk_in_and_finishes_the_oldest():
    schedule = RollingSchedule(3, steps=STEPS)
    opening, steady = schedule.opening_passes(0), schedule.passes(1)
    assert [len(one.ahead) for one in opening if one.kind == "denoise"] == [0, 1, 2]
    assert [one.kind for one in steady] == ["denoise", "commit"]
    levels = [steady[0].timestep, *[level.timestep for level in steady[0].ahead]]
    assert levels == sorted(levels)
    assert levels[-1] == 1000.0
    assert [level.step for level in steady[0].ahead] == [1, 0]
    assert schedule.num_ahead == 2
    assert schedule.after_exit == "finish"


@pytest.mark.parametrize("kind", [RelativisticCache, SlidingCache])
def test_it_resumes_from_a_file_with_its_part_denoised_frames(kind, tmp_path):
    streamer = model(kind)
    state = streamer.start(text(2), latent_shape=LATENT)
    chunks = list(streamer.stream(state, 7))
    assert chunks[3].state.pending_BFCHW.shape[1] == 2 * FRAMES
    assert sum(block.num_frames for block in chunks[6].state.history) == 4
    save_stream_state(tmp_path / "s.safetensors", chunks[3].state)
    again = streamer.resume(load_stream_state(tmp_path / "s.safetensors"))
    for old, new in zip(chunks[4:], streamer.stream(again, 3), strict=True):
        assert torch.equal(old.latents_BFCHW, new.latents_BFCHW)


def test_it_goes_on_from_given_frames():
    streamer = model()
    state = streamer.start(text(), latent_shape=LATENT)
    given = torch.randn(1, 2 * FRAMES, *LATENT, generator=torch.Generator().manual_seed(1))
    state = streamer.prefill(state, given)
    assert state.pending_BFCHW is None
    chunks = list(streamer.stream(state, 3))
    assert [chunk.first_frame for chunk in chunks] == [4, 6, 8]


@pytest.mark.parametrize("exit_step", [0, 1, 2])
def test_training_leaves_at_any_window_and_goes_on_as_streaming_does(exit_step):
    streamer = model()
    state = streamer.start(text(), latent_shape=LATENT)
    chunk = streamer.step(state, exit_step=exit_step)
    ahead = 0 if chunk.ahead_BFCHW is None else chunk.ahead_BFCHW.shape[1]
    assert ahead == exit_step * FRAMES
    assert chunk.latents_BFCHW.requires_grad
    assert not chunk.state.pending_BFCHW.requires_grad
    with torch.no_grad():
        plain = streamer.step(state)
    torch.testing.assert_close(chunk.state.pending_BFCHW, plain.state.pending_BFCHW)


def test_a_hidden_state_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="AdaptiveAnchor denoises a hidden state in all passes"):
        Streamer(
            golden_backbone(),
            anchor=AdaptiveAnchor(1),
            cache=RelativisticCache(window_frames=12),
            schedule=RollingSchedule(FRAMES, steps=STEPS),
        )


def test_the_window_must_hold_all_live_chunks():
    with pytest.raises(
        ValueError, match="`budget_frames` 7 cannot hold an anchor of 2 and a chunk of 6"
    ):
        model(budget=7)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"steps": [1000]}, "FewStepSchedule"), ({"commit_window": -1}, "`commit_w")],
)
def test_bad_arguments_are_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        RollingSchedule(3, **arguments)
