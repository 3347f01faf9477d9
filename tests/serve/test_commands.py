"""Messages of viewers: sizes, types and numbers are checked before anything happens."""

import json

import live_toy
import pytest

from lightning_adastate.serve.commands import MAX_MESSAGE, clean_text, read_command, read_message


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"type": "explode"}, "`type` is one of change, anchor"),
        ({"type": "change", "policy": "flush", "path": "/etc"}, "'change' has no 'path'"),
        ({"type": "change", "lane": "0"}, "`lane` must be int | None, got '0'"),
        ({"type": "change", "lane": True}, "`lane` must be int"),
        ({"type": "change", "lane": 1.5}, "`lane` must be int"),
        ({"type": "anchor"}, "'anchor' needs `name`"),
        ({"type": "anchor", "name": None}, "`name` must be str"),
        ({"type": "anchor", "name": ["x"]}, "`name` must be str"),
        ({"type": "restore", "save": {}}, "`save` must be int"),
    ],
)
def test_what_is_no_command_is_refused(message, said):
    with pytest.raises(ValueError, match=said.replace("|", r"\|")):
        read_command(message)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"type": "change", "policy": "restart"}, "`policy` is one of keep"),
        ({"type": "change", "policy": "keep"}, "keeps cache and prompt"),
        ({"type": "change", "policy": "flush", "frames": 10**9}, "`frames` must be 1 to 256"),
        ({"type": "change", "policy": "flush", "frames": 0}, "`frames` must be 1 to 256"),
        ({"type": "change", "policy": "flush", "lane": 7}, "there is no lane 7"),
        ({"type": "change", "policy": "flush", "lane": -1}, "there is no lane -1"),
        ({"type": "change", "prompt": " \x00 "}, "the prompt is empty"),
        ({"type": "change", "prompt": "x" * 2001}, "2001 characters, the most is 2000"),
        ({"type": "restart", "seed": -1}, "`seed` must be 0 to"),
        ({"type": "restart", "seed": 2**70}, "`seed` must be 0 to"),
        ({"type": "anchor", "name": "x"}, "there is no anchor 'x'; it is one of static, adaptive"),
        ({"type": "anchor", "name": "static", "lane": 1}, "there is no lane 1"),
        ({"type": "restore", "save": 4}, "there is no save 4"),
        ({"type": "close"}, "there is no lane 1"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_and_changes_nothing(session, message, said):
    before = standing(session)
    with pytest.raises(ValueError, match=said):
        read_command(message).apply(session)
    assert standing(session) == before


def standing(session):
    """Where a session stands, as far as it can be compared."""
    lanes = session.snapshot().lanes
    return [
        (at.anchor, at.prompt, at.state.chunk, at.state.timeline) for at in lanes
    ], session.seed


@pytest.fixture(scope="module")
def session():
    made = live_toy.session()
    made.step()
    return made


def test_what_is_no_message_is_refused():
    for text in ("", "[]", "7", '{"type": 3}', "{", "[" * 5000, '{"a": 1}'):
        with pytest.raises(ValueError, match="a message is a JSON object"):
            read_message(text)
    with pytest.raises(ValueError, match=f"a message has {MAX_MESSAGE} bytes at most"):
        read_message(json.dumps({"type": "x" * MAX_MESSAGE}))


def test_control_characters_leave_a_text():
    assert clean_text(" a\tred\u202e \x1b[31m fox\n", "prompt", 20) == "a red [31m fox"
