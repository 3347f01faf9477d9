import pytest
from tiny import LATENT, contents, frames, streamer, text

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.caches import RelativisticCache, SlidingCache
from lightning_adastate.caches.base import split_oldest
from lightning_adastate.streaming.events import kv_flush
from lightning_adastate.types import KV, Event, WindowFrames

every_cache = pytest.mark.parametrize("kind", [RelativisticCache, SlidingCache])


def room(cache, numbers, *, num_new, shown=0, full=0):
    blocks = [frames(*numbers[i : i + 3]) for i in range(0, len(numbers), 3)]
    kept, evicted = cache.make_room(blocks, num_new=num_new, anchor_shown=shown, anchor_full=full)
    return contents(KV.cat(kept) if kept else None), contents(evicted)


@every_cache
@pytest.mark.parametrize(
    ("size", "numbers", "expected"),
    [
        ({"window_frames": 6}, [0, 1, 2], ([0, 1, 2], [])),
        ({"window_frames": 6}, [0, 1, 2, 3, 4, 5], ([3, 4, 5], [0, 1, 2])),
        ({"window_frames": 7}, [0, 1, 2, 3, 4, 5], ([2, 3, 4, 5], [0, 1])),
        ({"window_frames": 3}, [0, 1, 2], ([], [0, 1, 2])),
        ({"budget_frames": 9}, [0, 1, 2, 3, 4, 5], ([0, 1, 2, 3, 4, 5], [])),
    ],
)
def test_the_oldest_frames_are_evicted(kind, size, numbers, expected):
    assert room(kind(**size), numbers, num_new=3) == expected


def test_a_budget_makes_room_for_the_whole_anchor_at_the_first_eviction():
    cache = RelativisticCache(budget_frames=9)
    numbers = list(range(9))
    assert room(cache, numbers, num_new=3, full=3) == ([6, 7, 8], [0, 1, 2, 3, 4, 5])
    assert room(cache, [6, 7, 8, 9, 10, 11], num_new=3, shown=3, full=3) == (
        [9, 10, 11],
        [6, 7, 8],
    )


def test_a_window_does_not_count_the_anchor():
    cache = RelativisticCache(window_frames=6)
    assert room(cache, [0, 1, 2], num_new=3, shown=3, full=3) == ([0, 1, 2], [])


def test_splitting_cuts_a_block_in_two():
    kept, gone = split_oldest([frames(0, 1, 2), frames(3, 4)], 4)
    assert (contents(kept[0]), contents(gone)) == ([4], [0, 1, 2, 3])


def test_relativistic_positions_of_adastate_are_those_of_the_paper():
    cache = RelativisticCache(window_frames=6)
    steady = cache.positions(WindowFrames((0,), 1, (3, 4, 5), (6, 7, 8)), None)
    assert (steady.anchor, steady.cached) == ((0,), (2, 3, 4))
    assert steady.live.query == steady.live.key == (1, 5, 6, 7)
    later = cache.positions(WindowFrames((99,), 1, (103, 104, 105), (106, 107, 108)), None)
    assert later == steady
    begin = cache.positions(WindowFrames((), 0, (0, 1, 2), (3, 4, 5)), None)
    assert (begin.cached, begin.live.key) == ((0, 1, 2), (3, 4, 5))


def test_sliding_positions_are_births_however_far_apart():
    cache = SlidingCache(budget_frames=12)
    far = 2**60
    places = cache.positions(WindowFrames((0, 1), 0, (far - 1,), (far, far + 1)), None)
    assert places.anchor == (0, 1)
    assert places.cached == (far - 1,)
    assert places.live.key == (far, far + 1)


@every_cache
def test_positions_are_unique_and_a_cut_moves_the_live_content_alone(kind):
    cache = kind(window_frames=6)
    parts = WindowFrames((1,), 1, (3, 4, 5), (6, 7, 8))
    plain = cache.positions(parts, None)
    everything = (*plain.anchor, *plain.cached, *plain.live.key)
    assert len(set(everything)) == len(everything)
    cut = cache.positions(parts, Event(chunk=2, live_start=45))
    assert cut.live.key == (plain.live.key[0], 45, 46, 47)
    assert (cut.anchor, cut.cached) == (plain.anchor, plain.cached)


@every_cache
@pytest.mark.parametrize(
    ("size", "match"),
    [
        ({}, "exactly one"),
        ({"window_frames": 6, "budget_frames": 6}, "budget_frames=null"),
        ({"window_frames": 0}, "`window_frames` must be 1 or more"),
    ],
)
def test_a_window_is_counted_in_exactly_one_way(kind, size, match):
    with pytest.raises(ValueError, match=match):
        kind(**size)


def test_too_small_a_window_is_refused_with_the_smallest_that_works():
    with pytest.raises(ValueError, match="smaller than a chunk of 3 frames; use 3 or more"):
        RelativisticCache(window_frames=2).check(chunk_frames=3, anchor_frames=1)
    with pytest.raises(ValueError, match="anchor of 4 and a chunk of 3 frames; use 7 or more"):
        RelativisticCache(budget_frames=6).check(chunk_frames=3, anchor_frames=4)


def test_infinity_ropes_released_queries_stay_at_the_end_after_a_flush():
    """Budget 12, sink 1, chunks of 3, a flush to two frames before chunk 6: keys 3..5, then 6..8; queries 9..11."""
    model = streamer(
        StaticAnchor(1), RelativisticCache(budget_frames=12, queries="end"), chunk_frames=3
    )
    state = model.start(text(), latent_shape=LATENT, timeline=(kv_flush(6),))
    seen = []
    for _ in range(10):
        live = model.plan(*model.open_chunk(state)).positions.live
        seen.append((live.query[0], live.key[0]))
        state = model.step(state).state
    before = [(0, 0), (3, 3), (6, 6), (9, 9), (9, 9), (9, 9)]
    assert seen == [*before, (9, 3), (9, 6), (9, 9), (9, 9)]
    with pytest.raises(ValueError, match="give that"):
        RelativisticCache(window_frames=6, queries="end")
