"""Every anchor of the package keeps the family's contract; a new class is tested at once."""

import inspect

import pytest
import torch
from families import members
from tiny import frames

import lightning_adastate.anchors as family
from lightning_adastate.anchors import Anchor
from lightning_adastate.types import Committed, Event

REQUIRED = {"ComposedAnchor": {"anchors": [family.StaticAnchor(2), family.PooledEMAAnchor(1)]}}
every_anchor = pytest.mark.parametrize("kind", members("anchors"), ids=lambda kind: kind.__name__)


def build(kind):
    """The anchor with its defaults."""
    return kind(**REQUIRED.get(kind.__name__, {}))


def closed(content, state=None):
    """What a chunk of frames of five tokens leaves behind."""
    return Committed(content, content.key_LBFTND, state, None, (1, 5), content.key_LBFTND)


def run(anchor: Anchor, chunks: int) -> list[int]:
    """Evict and commit three frames per chunk; return the number of frames shown."""
    held, shown = anchor.empty(), []
    for chunk in range(chunks):
        first = 3 * chunk
        if chunk:
            held = anchor.absorb(held, frames(first, first + 1, first + 2, batch=2), ())
        seen = anchor.read(held, first + 3)
        shown.append(sum(part.num_frames for part in seen))
        assert shown[-1] == anchor.num_shown(held)
        live = anchor.num_live_frames(held)
        state = frames(*range(first, first + live), batch=2) if live else None
        content = frames(first + 6, first + 7, first + 8, batch=2)
        held = anchor.commit(held, closed(content, state))
    return shown


@every_anchor
def test_anchor_shows_its_frames_and_stays_that_size(kind):
    anchor = build(kind)
    shown = run(anchor, 50)
    assert max(shown) <= anchor.num_frames
    assert shown[-1] == anchor.num_frames
    assert shown[10:] == [anchor.num_frames] * 40


@every_anchor
def test_anchor_changes_no_input_in_place(kind):
    anchor = build(kind)
    first, second = frames(0, 1, 2), frames(3, 4, 5)
    held = anchor.absorb(anchor.commit(anchor.empty(), closed(first)), first, (second,))
    before = {name: kv.key_LBFTND.clone() for name, kv in held.items()}
    anchor.absorb(held, second, ())
    anchor.read(held, 3)
    assert all(torch.equal(before[name], kv.key_LBFTND) for name, kv in held.items())
    assert torch.equal(first.key_LBFTND, frames(0, 1, 2).key_LBFTND)
    assert torch.equal(second.key_LBFTND, frames(3, 4, 5).key_LBFTND)


@every_anchor
def test_anchor_holds_no_buffers_and_a_rebase_empties_it(kind):
    anchor = build(kind)
    assert not list(anchor.buffers())
    held = anchor.absorb(
        anchor.commit(anchor.empty(), closed(frames(0, 1, 2))), frames(0, 1, 2), ()
    )
    same = anchor.on_event(held, Event(chunk=1))
    assert same.keys() == held.keys()
    assert all(same[name] is held[name] for name in held)
    assert anchor.on_event(held, Event(chunk=1, reset_anchor=True)) == anchor.empty()


@every_anchor
def test_anchor_names_every_argument_in_its_repr(kind):
    for name in inspect.signature(kind).parameters:
        assert f"{name}=" in repr(build(kind))


def test_anchor_rejects_a_negative_size():
    with pytest.raises(ValueError, match="`num_frames` must be 0 or more"):
        family.StaticAnchor(-1)
