import pytest

from lightning_adastate.schedules import FewStepSchedule


def test_warped_steps_are_those_of_self_forcing():
    passes = FewStepSchedule(3, steps=(1000, 750, 500, 250), shift=5.0).passes(0)
    assert [p.timestep for p in passes] == pytest.approx([1000, 937.5, 833.3333, 625, 0])
    assert [p.sigma for p in passes] == pytest.approx([1, 0.9375, 0.8333333, 0.625, 0])
    assert [p.next_sigma for p in passes[:3]] == [p.sigma for p in passes[1:4]]
    assert [p.kind for p in passes] == ["denoise"] * 4 + ["commit"]


def test_unwarped_steps_look_their_sigma_up_in_the_table():
    passes = FewStepSchedule(3, steps=(1000, 757, 522), shift=8.0, warp=False).passes(0)
    assert [p.timestep for p in passes] == [1000, 757, 522, 0]
    assert [p.sigma for p in passes[:3]] == pytest.approx([1, 0.757, 0.522], abs=5e-4)


def test_the_first_chunk_may_have_its_own_frames_and_steps():
    schedule = FewStepSchedule(3, first_chunk_frames=1, first_chunk_steps=(1000, 500), shift=1.0)
    assert schedule.chunks_of(10) == (1, 3, 3, 3)
    assert [len(schedule.passes(chunk)) for chunk in (0, 1)] == [3, 5]


def test_the_parity_switch_noises_the_clean_pass_to_the_last_table_level():
    passes = FewStepSchedule(3, shift=5.0, commit_noise="table").passes(0)
    assert passes[-1].input_sigma == pytest.approx(0.0049801, abs=1e-7)
    assert FewStepSchedule(3).passes(0)[-1].input_sigma == 0.0


@pytest.mark.parametrize("steps", [(), (250, 500), (1000, 1000), (1001, 500), (500, 0)])
def test_bad_steps_are_refused(steps):
    with pytest.raises(ValueError, match="must fall and lie in"):
        FewStepSchedule(3, steps=steps)


@pytest.mark.parametrize("frames", [0, 4])
def test_a_clip_that_is_no_whole_number_of_chunks_is_refused(frames):
    with pytest.raises(ValueError, match="latent frames are not chunks"):
        FewStepSchedule(3).chunks_of(frames)


def test_a_chunk_needs_a_frame():
    with pytest.raises(ValueError, match="`chunk_frames` must be 1 or more"):
        FewStepSchedule(0)


def test_given_chunks_do_not_count_as_the_first_one():
    schedule = FewStepSchedule(1, steps=(1000, 500), first_chunk_steps=(1000, 750, 500, 250))
    counts = [len(schedule.passes_at(chunk, given_chunks=2)) for chunk in (2, 3, 4)]
    assert counts == [5, 3, 3]
