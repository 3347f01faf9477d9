from tiny import contents, frames

from lightning_adastate.anchors import ReplacementAnchor


def test_replacement_keeps_the_newest_evicted_frames():
    anchor = ReplacementAnchor(2)
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2), (frames(3),))
    assert contents(anchor.read(held, 3)) == [1, 2]
    held = anchor.absorb(held, frames(3), (frames(4),))
    assert contents(anchor.read(held, 4)) == [2, 3]
    held = anchor.absorb(held, frames(4, 5, 6), ())
    assert anchor.read(held, 7)[0].frame_indices == (5, 6)
