"""Live sessions: changes between chunks are the timeline's, branches are exact, and nothing grows."""

import live_toy
import pytest
import torch

from lightning_adastate.generation.timeline import Change
from lightning_adastate.serve import load_session, save_session
from lightning_adastate.streaming.state_file import load_stream_state


def planned(changes, later, chunks, anchor="static"):
    """The stream that `generate` makes of a timeline that was known before."""
    module = live_toy.modules()[anchor]
    events = [
        change.event(None if change.prompt is None else i + 1) for i, change in enumerate(changes)
    ]
    state = module.open_stream(["drifting slowly west"], timeline=events, later_prompts=later)
    return torch.cat([made.video_BFCHW[0] for made in module.stream(state, chunks)])


@pytest.fixture(scope="module")
def untouched():
    """Nine chunks of the stream that nobody changes."""
    return planned([], [], 9)


def test_an_untouched_session_is_the_stream_of_its_seed(untouched):
    (live,) = live_toy.videos(live_toy.session(), 5)
    assert torch.equal(live, untouched[: len(live)])


@pytest.mark.parametrize("policy", ["keep", "recache", "rebase", "drop", "flush", "cut"])
def test_a_change_while_it_runs_is_that_of_a_timeline(policy, untouched):
    session = live_toy.session()
    (before,) = live_toy.videos(session, 4)
    session.change(policy, prompt="a red fox")
    (after,) = live_toy.videos(session, 3)
    wanted = planned([Change(4, "a red fox", policy)], [["a red fox"]], 7)
    assert torch.equal(torch.cat([before, after]), wanted)
    assert not torch.equal(after, untouched[len(before) : len(wanted)])


def test_many_changes_leave_a_state_of_the_same_size():
    session = live_toy.session()
    live_toy.videos(session, 4)
    for number in range(5):
        session.change("keep", prompt=f"fox {number}")
        live_toy.videos(session, 1)
    state = session.snapshot().lanes[0].state
    assert (len(state.texts_PBSD), len(state.timeline)) == (2, 1)
    for _ in range(8 - 0):
        session.change("flush")
    with pytest.raises(ValueError, match="8 changes wait"):
        session.change("flush")


def test_a_prompt_that_names_a_file_is_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("many words of a file that nobody may read from the page")
    session = live_toy.session()
    live_toy.videos(session, 2)
    session.change("keep", prompt="secret.txt")
    assert session.lanes[0].at.prompt == "secret.txt"


def test_a_refused_prompt_changes_no_lane():
    session = live_toy.session()
    live_toy.videos(session, 3)
    session.branch("adaptive")
    before = session.snapshot()
    with pytest.raises(ValueError, match="has 9 words, the most is 8"):
        session.change("keep", prompt="a b c d e f g h i")
    assert [at.state.timeline for at in session.snapshot().lanes] == [
        at.state.timeline for at in before.lanes
    ]


def test_lanes_have_the_same_noise_and_differ_by_their_anchor_alone(untouched):
    session = live_toy.session()
    live_toy.videos(session, 4)
    session.branch()
    first, second = live_toy.videos(session, 2)
    assert torch.equal(first, second)
    session.branch("adaptive")
    first, second = live_toy.videos(session, 3)
    assert not torch.equal(first, second)
    assert [at.state.chunk for at in session.snapshot().lanes] == [9, 9]
    assert torch.equal(first, untouched[-len(first) :])  # who is beside it changes nothing


def test_a_new_anchor_begins_empty_and_restore_brings_the_old_one_back():
    session = live_toy.session()
    live_toy.videos(session, 4)
    number = session.save()
    (untouched,) = live_toy.videos(session, 3)
    session.restore(number)
    session.set_anchor("adaptive")
    at = session.snapshot().lanes[0]
    assert at.anchor == "adaptive"
    assert not at.state.anchor
    assert at.state.blocks  # the window stays
    (other,) = live_toy.videos(session, 3)
    assert not torch.equal(other, untouched)
    session.restore(number)
    assert session.snapshot().lanes[0].anchor == "static"
    assert session.snapshot().lanes[0].state.anchor
    assert torch.equal(live_toy.videos(session, 3)[0], untouched)


def test_a_save_can_stand_beside_the_stream_as_a_second_lane():
    session = live_toy.session()
    live_toy.videos(session, 3)
    number = session.save("early")
    (first,) = live_toy.videos(session, 2)
    session.restore(number, lane=1)
    _, second = live_toy.videos(session, 2)
    assert torch.equal(first, second)
    session.close(lane=0)
    assert [at.state.chunk for at in session.snapshot().lanes] == [5]
    with pytest.raises(ValueError, match="only lane"):
        session.close(lane=0)


def test_there_are_no_more_saves_than_there_may_be():
    session = live_toy.session()
    for _ in range(8):
        session.save()
    with pytest.raises(ValueError, match="8 saves already"):
        session.save()
    session.forget(3)
    assert session.save() == 9
    with pytest.raises(ValueError, match="no save 3"):
        session.restore(3)


def test_another_seed_is_another_stream_and_the_same_seed_the_same():
    session = live_toy.session()
    (first,) = live_toy.videos(session, 2)
    session.restart(7)
    assert not torch.equal(live_toy.videos(session, 2)[0], first)
    session.restart(0)
    assert torch.equal(live_toy.videos(session, 2)[0], first)


def test_after_an_error_the_chunk_is_made_again_or_the_stream_begins_anew(monkeypatch, untouched):
    session = live_toy.session()
    live_toy.videos(session, 3)
    monkeypatch.setattr(session.lanes[0].module.codec, "decode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.step()
    monkeypatch.undo()
    session.recover()
    assert torch.equal(live_toy.videos(session, 2)[0], untouched[-18:-12])
    session.recover(anew=True)
    assert session.snapshot().lanes[0].state.chunk == 0
    session.restore(1)
    assert session.snapshot().lanes[0].state.chunk == 4  # before the newest chunk


def test_a_session_in_a_file_goes_on_where_it_stopped(tmp_path):
    session = live_toy.session()
    live_toy.videos(session, 4)
    session.branch("adaptive")
    session.change("recache", prompt="a red fox", lane=1)
    path = tmp_path / "session.safetensors"
    save_session(path, session.snapshot(), session.modules)
    wanted = live_toy.videos(session, 3)
    again = live_toy.session()
    again.stand(load_session(path, again.modules))
    assert all(map(torch.equal, live_toy.videos(again, 3), wanted))
    assert [at.prompt for at in again.snapshot().lanes] == ["drifting slowly west", "a red fox"]
    assert load_stream_state(path).chunk == 4  # `generate --generation.state_in` takes it


def test_a_file_that_is_no_session_or_of_another_model_is_refused(tmp_path):
    session, again = live_toy.session(), live_toy.session()
    path = tmp_path / "session.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot read a session"):
        load_session(path, session.modules)
    save_session(path, session.snapshot(), session.modules)
    with torch.no_grad():
        next(again.modules["static"].streamer.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="weights"):
        load_session(path, again.modules)
    with pytest.raises(ValueError, match="the anchor 'static', and there are only adaptive"):
        load_session(path, {"adaptive": session.modules["adaptive"]})


def test_attention_is_looked_at_in_every_fourth_chunk_and_changes_nothing(untouched):
    session = live_toy.session()
    made = [session.step()[0] for _ in range(9)]
    assert [each.chunk.attention is not None for each in made][1:] == [False] * 3 + [True] + [
        False
    ] * 3 + [True]
    roles = [frame.role for frame in made[8].chunk.attention.frames]
    assert roles == ["anchor", "cached", "cached"] + ["cached"] * (len(roles) - 3)
    assert torch.equal(torch.cat([each.chunk.video_FCHW for each in made]), untouched)
