import pytest
import torch
from tiny import LATENT, golden_backbone, text

from lightning_adastate.anchors import AdaptiveAnchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.flow import SigmaTable, add_noise, velocity_to_x0
from lightning_adastate.noise import CounterNoise, NoiseKey
from lightning_adastate.rope import rope_table, rotate
from lightning_adastate.schedules import DiagonalSchedule
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import LivePositions, Window

RELEASED = [[1000, 933, 733, 357], [1000, 933, 357], [1000, 357]]


def model(anchor=None, **schedule):
    return Streamer(
        golden_backbone(),
        anchor=StaticAnchor(0) if anchor is None else anchor,
        cache=RelativisticCache(window_frames=6),
        schedule=DiagonalSchedule(3, steps=RELEASED, warp=False, **schedule),
    )


def test_later_chunks_take_fewer_steps_and_the_last_list_serves_the_rest():
    schedule = DiagonalSchedule(3, steps=[[1000, 800, 600], [1000, 500]])
    counts = [sum(p.kind == "denoise" for p in schedule.passes(chunk)) for chunk in range(5)]
    assert counts == [3, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("cached", "kinds"),
    [("last_pass", [4, 3, 2]), ("renoised", [5, 4, 3]), ("clean", [5, 4, 3])],
)
def test_a_clean_pass_is_spent_only_where_it_was_asked_for(cached, kinds):
    schedule = DiagonalSchedule(3, steps=RELEASED, warp=False, cached=cached)
    assert [len(schedule.passes(chunk)) for chunk in range(3)] == kinds
    kept = DiagonalSchedule(3, steps=RELEASED, warp=False, cached=cached, clean_chunks=1)
    assert kept.passes(0)[-1].timestep == 0.0
    assert kept.passes(1) == schedule.passes(1)


def test_warped_steps_are_those_of_the_paper():
    passes = DiagonalSchedule(3, steps=[[1000, 100]], shift=5.0).passes(0)
    assert passes[1].timestep == pytest.approx(357.14, abs=0.01)
    assert passes[1].sigma == pytest.approx(0.357, abs=1e-3)


def test_the_cache_holds_keys_of_the_last_passes_input():
    """By hand: chunk 1's context is what the last denoise pass of chunk 0 saw, at its timestep."""
    backbone, table = golden_backbone(), SigmaTable(5.0)
    state = model().start(text(), latent_shape=LATENT)
    noise, kv = CounterNoise(), backbone.text_kv(text())

    def draw(chunk, step):
        key = NoiseKey(chunk, step, "content")
        return noise.draw(key, seed=0, stream_ids=(0,), shape_FCHW=(3, *LATENT))

    live, window, places = draw(0, 0), None, (0.0, 1.0, 2.0)
    for chunk, steps in ((0, RELEASED[0]), (1, RELEASED[1])):
        live = draw(chunk, 0)
        for index, timestep in enumerate(steps):
            sigma = table.sigma_at(torch.tensor([float(timestep)]))
            out = backbone(
                live,
                timestep_BF=torch.full((1, 3), float(timestep)),
                text=kv,
                positions=LivePositions(places, places),
                window=window,
                return_kv=True,
            )
            x0 = velocity_to_x0(out.velocity_BFCHW, live, sigma)
            if index + 1 < len(steps):
                after = table.sigma_at(torch.tensor([float(steps[index + 1])]))
                live = add_noise(x0, draw(chunk, index + 1), after)
        grid = backbone.token_grid(*LATENT[1:])
        turn = rope_table((0.0, 1.0, 2.0), *grid, backbone.head_dim, torch.device("cpu"))
        key = rotate(out.kv.key_LBFTND.flatten(2, 3), turn)
        window = Window(key, out.kv.value_LBFTND.flatten(2, 3), key.shape[2], False)
        places = (3.0, 4.0, 5.0)
    chunks = list(model().stream(state, 2))
    torch.testing.assert_close(chunks[1].latents_BFCHW, x0, rtol=0, atol=1e-5)


def test_leaving_early_finishes_the_chunk_so_that_training_caches_what_streaming_caches():
    streamer = model()
    state = streamer.start(text(), latent_shape=LATENT)
    early = streamer.step(state, exit_step=0)
    full = streamer.step(state)
    assert not torch.equal(early.latents_BFCHW, full.latents_BFCHW)
    assert early.latents_BFCHW.requires_grad
    for a, b in zip(early.state.blocks, full.state.blocks, strict=True):
        torch.testing.assert_close(a.key_LBFTND, b.key_LBFTND.detach(), rtol=0, atol=1e-6)
        assert not a.key_LBFTND.requires_grad
    with pytest.raises(ValueError, match="`kv_gradient` must be 'detach'"):
        streamer.step(state, exit_step=0, kv_gradient="all")


def test_given_chunks_count_as_chunks():
    schedule = DiagonalSchedule(3, steps=[[1000, 800, 600], [1000, 500]], clean_chunks=1)
    assert schedule.passes_at(1, given_chunks=1) == schedule.passes(1)


def test_a_hidden_state_and_given_frames_go_with_it():
    streamer = model(AdaptiveAnchor(1))
    state = streamer.start(text(), latent_shape=LATENT)
    given = torch.randn(1, 3, *LATENT, generator=torch.Generator().manual_seed(1))
    state = streamer.prefill(state, given)
    assert state.blocks[0].num_frames == 3
    chunks = list(streamer.stream(state, 4))
    assert chunks[-1].state_latents_BFCHW is not None


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"steps": []}, "`steps`"),
        ({"steps": [[500, 700]]}, r"`steps\[0\]`"),
        ({"clean_chunks": -1}, "`clean"),
    ],
)
def test_bad_steps_are_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        DiagonalSchedule(3, **arguments)
