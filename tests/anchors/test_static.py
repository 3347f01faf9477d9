from tiny import contents, frames

from lightning_adastate.anchors import StaticAnchor


def test_static_takes_the_oldest_evicted_frames_and_never_changes():
    anchor = StaticAnchor(2)
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2), (frames(3, 4),))
    held = anchor.absorb(held, frames(3, 4, 5), (frames(6),))
    assert contents(anchor.read(held, 6)) == [0, 1]
    assert anchor.read(held, 6)[0].frame_indices == (0, 1)


def test_static_fills_up_over_several_evictions():
    anchor = StaticAnchor(3)
    held = anchor.absorb(anchor.empty(), frames(0, 1), (frames(2),))
    assert contents(anchor.read(held, 2)) == [0, 1]
    held = anchor.absorb(held, frames(2, 3), ())
    assert contents(anchor.read(held, 4)) == [0, 1, 2]


def test_static_of_zero_frames_is_no_anchor():
    anchor = StaticAnchor(0)
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2), ())
    assert anchor.read(held, 3) == ()
    assert anchor.num_shown(held) == 0
