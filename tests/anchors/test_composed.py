import pytest
from tiny import contents, frames

from lightning_adastate.anchors import (
    AdaptiveAnchor,
    ComposedAnchor,
    EMAAnchor,
    PooledEMAAnchor,
    ReplacementAnchor,
    StaticAnchor,
)
from lightning_adastate.types import Committed


def test_what_a_sink_claims_the_memories_behind_it_do_not_see():
    anchor = ComposedAnchor(
        [StaticAnchor(3), PooledEMAAnchor(decay=0.7), PooledEMAAnchor(decay=0.4)]
    )
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2, 3, 4, 5, 6, 7), ())
    assert contents(anchor.read(held, 8)) == [0, 1, 2, 5, 5]
    held = anchor.absorb(held, frames(8, 9, 10), ())
    assert contents(anchor.read(held, 11)) == [0, 1, 2, 6.2, 7.4]


def test_memropes_code_begins_with_the_newest_chunk_and_loses_two_frames():
    anchor = ComposedAnchor([StaticAnchor(3), PooledEMAAnchor(decay=0.7, first_frames=3)])
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2, 3, 4, 5, 6, 7), ())
    assert contents(anchor.read(held, 8)) == [0, 1, 2, 6]


def test_a_sink_that_fills_slowly_passes_on_only_what_it_does_not_take():
    anchor = ComposedAnchor([StaticAnchor(2), ReplacementAnchor(1)])
    held = anchor.absorb(anchor.empty(), frames(0), ())
    assert contents(anchor.read(held, 1)) == [0]
    held = anchor.absorb(held, frames(1), ())
    assert contents(anchor.read(held, 2)) == [0, 1]
    held = anchor.absorb(held, frames(2, 3), ())
    assert contents(anchor.read(held, 4)) == [0, 1, 3]


def test_memories_side_by_side_see_the_same_frames():
    anchor = ComposedAnchor([EMAAnchor(1, decay=0.5), ReplacementAnchor(1)])
    held = anchor.absorb(anchor.empty(), frames(0), ())
    held = anchor.absorb(held, frames(4), ())
    assert contents(anchor.read(held, 5)) == [2, 4]


def test_a_state_behind_a_sink_gets_what_was_denoised_for_it():
    anchor = ComposedAnchor([StaticAnchor(1), AdaptiveAnchor(1)])
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2), ())
    assert contents(anchor.read(held, 3)) == [0, 1]
    assert anchor.num_live_frames(held) == 1
    content = frames(6, 7, 8)
    held = anchor.commit(held, Committed(content, content.key_LBFTND, frames(100), None))
    assert contents(anchor.read(held, 6)) == [0, 100]


def test_a_composition_may_be_a_part_of_another():
    inner = ComposedAnchor([StaticAnchor(1), ReplacementAnchor(1)])
    anchor = ComposedAnchor([inner, EMAAnchor(1, decay=0.5)])
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2), ())
    held = anchor.absorb(held, frames(3), ())
    assert contents(anchor.read(held, 4)) == [0, 3, 2.25]


def test_two_hidden_states_are_refused():
    with pytest.raises(ValueError, match="AdaptiveAnchor and AdaptiveAnchor"):
        ComposedAnchor([AdaptiveAnchor(1), AdaptiveAnchor(1)])
    with pytest.raises(ValueError, match="one anchor or more"):
        ComposedAnchor([])


@pytest.mark.parametrize(("name", "value"), [("decay", 1.0), ("first_frames", 0)])
def test_a_pooled_memory_rejects_bad_numbers(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        PooledEMAAnchor(**{name: value})
