import pytest
from tiny import contents, frames

from lightning_adastate.anchors import TriangularAnchor
from lightning_adastate.anchors.triangular import triangular_index


def test_triangular_index_goes_up_and_down():
    assert [triangular_index(p, 3) for p in range(10)] == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2]


def test_bank_comes_from_the_first_frames_and_is_read_by_position():
    anchor = TriangularAnchor(3, bank_frames=6)
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2, 3, 4, 5), (frames(6, 7, 8),))
    shown = [contents(anchor.read(held, start)) for start in (6, 9, 12, 15)]
    assert shown == [[3, 4, 5], [5, 4, 3], [2, 1, 0], [0, 1, 2]]
    assert anchor.read(held, 12)[0].frame_indices == (9, 10, 11)


def test_bank_is_completed_from_frames_that_stay():
    anchor = TriangularAnchor(2, bank_frames=5)
    held = anchor.absorb(anchor.empty(), frames(0, 1, 2), (frames(3, 4), frames(5)))
    assert contents(held["bank"]) == [0, 1, 2, 3, 4]


def test_bank_of_a_stream_that_starts_late_counts_from_its_first_frame():
    anchor = TriangularAnchor(2, bank_frames=3)
    late = 10**6
    held = anchor.absorb(
        anchor.empty(), frames(0, 1, 2, frame_indices=(late, late + 1, late + 2)), ()
    )
    assert contents(anchor.read(held, late + 5)) == [2, 1]


def test_triangular_rejects_a_bank_smaller_than_what_it_shows():
    with pytest.raises(ValueError, match="`bank_frames` must be at least"):
        TriangularAnchor(4, bank_frames=3)
