"""Deep Forcing's and PackForcing's middles, against hand-written contents."""

from dataclasses import replace

import pytest
import torch
from tiny import LATENT, golden_backbone, text

from lightning_adastate.anchors import Anchor, CompressedAnchor, SelectedAnchor, StaticAnchor
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.rope import rope_table, rotate
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.streaming.state_file import load_stream_state, save_stream_state
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import KV, Committed, TokenPlaces

GRID = (2, 3)


def tokens(*frame_indices, seed=0, rows=2):
    """Frames of six random tokens."""
    generator = torch.Generator().manual_seed(seed)
    key = torch.randn(
        2, rows, len(frame_indices), 6, 2, 12, generator=generator, dtype=torch.float64
    )
    return KV(key, key + 100, frame_indices)


def close(anchor, held, content, query):
    return anchor.commit(
        held, Committed(content, content.key_LBFTND, None, None, GRID, query.key_LBFTND)
    )


def naive_scores(query, candidates):
    """The paper's sum over queries and heads, frame by frame, in loops."""
    places = (*query.frame_indices, *candidates.frame_indices)
    table = rope_table(tuple(float(p) for p in places), *GRID, 12, torch.device("cpu"))
    both = torch.cat([query.key_LBFTND, candidates.key_LBFTND], dim=2).flatten(2, 3)
    turned = rotate(both, table)
    count = query.num_frames * 6
    asked, keys = turned[:, :, :count], turned[:, :, count:]
    return torch.einsum("lbqnd,lbsnd->lbs", asked.double(), keys.double())


def test_the_tokens_that_recent_queries_attend_to_most_are_selected():
    anchor = SelectedAnchor(2, num_selected=1)
    first, rest = tokens(0, 1, seed=1), tokens(2, 3, 4, seed=2)
    query = tokens(8, 9, seed=3)
    held = close(anchor, anchor.empty(), query, query)
    held = anchor.absorb(held, KV.cat([first, rest]), ())
    sink, selected = anchor.read(held, 8)
    assert torch.equal(sink.key_LBFTND, first.key_LBFTND)
    assert (sink.frame_indices, selected.frame_indices) == ((5, 6), (7,))
    scores = naive_scores(query, rest)
    flat = rest.key_LBFTND.flatten(2, 3)
    for layer in range(2):
        for row in range(2):
            best = sorted(scores[layer, row].argsort(descending=True)[:6].tolist())
            assert torch.equal(selected.key_LBFTND[layer, row, 0], flat[layer, row, best])
            places = held["selected"].places
            assert (places.offset_LBFT[layer, row, 0] + 4).tolist() == [2 + i // 6 for i in best]
            assert places.row_LBFT[layer, row, 0].tolist() == [i % 6 // 3 for i in best]
            assert places.column_LBFT[layer, row, 0].tolist() == [i % 3 for i in best]


def test_selected_tokens_compete_again_and_keep_their_births():
    anchor = SelectedAnchor(0, num_selected=1, index="frame")
    old, query = tokens(0, seed=1), tokens(9, seed=3)
    held = close(anchor, anchor.empty(), query, query)
    held = anchor.absorb(held, old, ())
    far = tokens(2**30, seed=2)
    loud = replace(far, key_LBFTND=0 * far.key_LBFTND)
    held = anchor.absorb(close(anchor, held, far, query), loud, ())
    (shown,) = anchor.read(held, 2**30 + 1)
    scores = naive_scores(replace(query, frame_indices=far.frame_indices), old)
    kept_old = (scores > 0).sum(dim=2)
    born = shown.frame_indices[0] + shown.places.offset_LBFT.long()
    assert torch.equal((born == 0).sum(dim=(2, 3)), kept_old)


def test_another_row_or_batch_does_not_change_a_selection():
    anchor = SelectedAnchor(1, num_selected=1)
    both, query = tokens(0, 1, 2, 3, seed=4), tokens(5, seed=5)
    alone = [
        KV(kv.key_LBFTND[:, :1], kv.value_LBFTND[:, :1], kv.frame_indices) for kv in (both, query)
    ]
    shown = []
    for content, asked in ((both, query), alone):
        held = close(anchor, anchor.empty(), asked, asked)
        shown.append(anchor.read(anchor.absorb(held, content, ()), 4)[1].key_LBFTND[:, :1])
    torch.testing.assert_close(*shown, rtol=0, atol=0)


def test_packed_frames_average_patches_and_stand_at_their_middle():
    anchor = CompressedAnchor(1, num_packed=1, bank_frames=2, stride=(2, 2))
    key = torch.arange(8.0).reshape(1, 1, 1, 8, 1, 1)
    packed = anchor.pack(KV(key, -key, (5,)), (2, 4))
    assert packed.key_LBFTND.flatten().tolist() == [2.5, 4.5]
    assert packed.places.row_LBFT.flatten().tolist() == [0.5, 0.5]
    assert packed.places.column_LBFT.flatten().tolist() == [0.5, 2.5]


def test_the_bank_shows_what_the_query_asks_for_in_order_of_time():
    anchor = CompressedAnchor(1, num_packed=2, bank_frames=4, stride=(2, 3))
    direction = torch.zeros(1, 1, 1, 6, 1, 4)
    direction[..., 0] = 1.0

    def frame(frame_index, loud):
        return KV(direction * loud, torch.full_like(direction, float(frame_index)), (frame_index,))

    held = anchor.empty()
    for frame_index, loud in enumerate((9.0, 8.0, 1.0, 7.0, 3.0, 5.0, 0.0)):
        content = frame(frame_index, loud)
        query = KV(direction, direction, (frame_index,))
        held = close(anchor, held, content, query)
        if frame_index:  # every frame leaves one chunk later
            held = anchor.absorb(held, frame(frame_index - 1, 0.0), ())
    sink, packed = anchor.read(held, 6)
    assert sink.frame_indices == (3,)
    assert packed.frame_indices == (4, 5)
    assert packed.value_LBFTND[0, 0, :, 0, 0, 0].tolist() == [3.0, 5.0]
    assert held["bank"].frame_indices == (2, 3, 4, 5)
    assert held["twins"].frame_indices == (6,)


DEEP = (SelectedAnchor(4, num_selected=1), {"budget_frames": 12, "compress_to": 9})
PACK = (CompressedAnchor(2, num_packed=3, bank_frames=4, stride=(2, 2)), {"window_frames": 6})


def model(anchor, cache):
    return Streamer(golden_backbone(), anchor=anchor, cache=cache, schedule=FewStepSchedule(3))


@pytest.mark.parametrize(("anchor", "size"), [DEEP, PACK], ids=["deep", "pack"])
@pytest.mark.parametrize("kind", [RelativisticCache, SlidingCache])
def test_a_stream_equals_its_rollout_and_resumes_from_a_file(anchor, size, kind, tmp_path):
    streamer = model(anchor, kind(**size))
    start = streamer.start(text(2), latent_shape=LATENT)
    chunks = list(streamer.stream(start, 9))
    with torch.no_grad():
        rolled, _ = streamer.rollout(start, 9)
    streamed = torch.cat([chunk.latents_BFCHW for chunk in chunks], dim=1)
    torch.testing.assert_close(streamed, rolled, rtol=0, atol=1e-5)
    save_stream_state(tmp_path / "s.safetensors", chunks[5].state)
    loaded = streamer.resume(load_stream_state(tmp_path / "s.safetensors"))
    again = [chunk.latents_BFCHW for chunk in streamer.stream(loaded, 3)]
    assert torch.equal(torch.cat(again, dim=1), streamed[:, 18:])


def test_deep_forcings_window_is_a_saw_tooth_of_two_chunks():
    """Sink 10, two frames of tokens, 21 compressed to 16: context and live are 16, 19, 16, 19, ..."""
    streamer = model(
        SelectedAnchor(10, num_selected=2), RelativisticCache(budget_frames=21, compress_to=16)
    )
    state = streamer.start(text(), latent_shape=LATENT)
    sizes = []
    for chunk in streamer.stream(state, 14):
        plan = streamer.plan(state)
        sizes.append(len(plan.positions.anchor) + len(plan.positions.cached) + 3)
        state = chunk.state
    assert sizes == [3, 6, 9, 12, 15, 18, 21, 16, 19, 16, 19, 16, 19, 16]


class Shows(Anchor):
    """Shows what it is told."""

    def __init__(self, kv):
        super().__init__(1)
        self.kv = kv

    def absorb(self, contents, evicted, kept):
        return contents

    def read(self, contents, window_start):
        return (self.kv,)


def test_tokens_with_places_are_read_where_they_say():
    """Explicit places of a full grid, two frames before the frame's own index, equal that index."""
    streamer = model(StaticAnchor(1), SlidingCache(window_frames=6))
    *_, chunk = streamer.stream(streamer.start(text(), latent_shape=LATENT), 3)
    sink = chunk.state.anchor["sink"]
    plain = replace(sink, frame_indices=(2,))
    grid = TokenPlaces.of_grid(2, 3, plain.key_LBFTND)
    placed = replace(
        plain, frame_indices=(4,), places=grid._replace(offset_LBFT=grid.offset_LBFT - 2)
    )
    seen = []
    for kv in (plain, placed, replace(plain, frame_indices=(4,))):
        streamer.anchor = Shows(kv)
        seen.append(streamer.step(chunk.state).latents_BFCHW)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-5)
    assert not torch.allclose(seen[0], seen[2], atol=1e-4)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: SelectedAnchor(-1), "`num_sink`"),
        (lambda: SelectedAnchor(3, num_selected=0), "StaticAnchor"),
        (lambda: CompressedAnchor(3, num_packed=9, bank_frames=5), "`bank_frames`"),
        (lambda: CompressedAnchor(3, stride=(0, 2)), "`stride`"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(build, name):
    with pytest.raises(ValueError, match=name):
        build()
