import pytest
from tiny import contents, frames

from lightning_adastate.anchors import EMAAnchor


def test_ema_blends_the_evicted_frames_slot_by_slot():
    anchor = EMAAnchor(3, decay=0.5)
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2), (frames(3, 4, 5),))
    assert contents(anchor.read(held, 3)) == [0, 1, 2]
    held = anchor.absorb(held, frames(3, 4, 5), (frames(6, 7, 8),))
    assert contents(anchor.read(held, 6)) == [1.5, 2.5, 3.5]


def test_ema_folds_the_rest_of_a_long_first_eviction_at_once():
    anchor = EMAAnchor(3, decay=0.5)
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2, 3, 4, 5), ())
    assert contents(anchor.read(held, 6)) == [1.5, 2.5, 3.5]


def test_ema_of_single_evictions_moves_every_slot():
    anchor = EMAAnchor(2, decay=0.5)
    held = anchor.empty()
    for number in (10, 11, 12, 13):
        held = anchor.absorb(held, frames(number), ())
    assert contents(anchor.read(held, 14)) == [11, 12]


def test_ema_decay_weighs_the_old_anchor():
    anchor = EMAAnchor(1, decay=0.9)
    held = anchor.absorb(anchor.empty(), frames(0), ())
    held = anchor.absorb(held, frames(1), ())
    assert contents(anchor.read(held, 2)) == [0.1]


def test_ema_decay_zero_keeps_the_newest_evicted_frames():
    anchor = EMAAnchor(3, decay=0.0)
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2), ())
    held = anchor.absorb(held, frames(3, 4, 5), ())
    assert contents(anchor.read(held, 6)) == [3, 4, 5]


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_ema_rejects_a_decay_outside_its_range(decay):
    with pytest.raises(ValueError, match=r"`decay` must be in \[0, 1\)"):
        EMAAnchor(3, decay=decay)
