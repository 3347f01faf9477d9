import pytest
from tiny import contents, frames

from lightning_adastate.anchors import AdaptiveAnchor
from lightning_adastate.types import Committed


def committed(state):
    content = frames(7, 8, 9)
    return Committed(content, content.key_LBFTND, state, None)


def test_adaptive_begins_with_the_first_frame_at_the_first_eviction():
    anchor = AdaptiveAnchor(1)
    assert anchor.num_live_frames(anchor.empty()) == 0
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2), (frames(3, 4, 5),))
    assert contents(anchor.read(held, 3)) == [0]
    assert anchor.num_live_frames(held) == 1


def test_adaptive_state_is_replaced_by_commit_alone():
    anchor = AdaptiveAnchor(1)
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2), ())
    held = anchor.commit(held, committed(frames(100)))
    held = anchor.absorb(held, frames(3, 4, 5), ())
    assert contents(anchor.read(held, 6)) == [100]


def test_adaptive_of_three_frames_takes_the_first_three_also_from_those_that_stay():
    anchor = AdaptiveAnchor(3)
    held = anchor.absorb(anchor.empty(), frames(0), (frames(1, 2),))
    assert contents(anchor.read(held, 1)) == [0, 1, 2]


def test_adaptive_without_a_live_state_keeps_what_it_has():
    anchor = AdaptiveAnchor(1)
    assert anchor.commit(anchor.empty(), committed(None)) == {}


def test_adaptive_needs_a_state_frame():
    with pytest.raises(ValueError, match="StaticAnchor"):
        AdaptiveAnchor(0)
