"""Where a live session stands, and what it has made: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lightning_adastate.serve.lane import LaneChunk, LaneState
from lightning_adastate.serve.meters import Reading


@dataclass(frozen=True)
class Snapshot:
    """Where a session stands; immutable, so keeping it is saving it.

    Args:
        lanes: Where its streams stand.
        seed: Seed of their noise and of all that is given.
    """

    lanes: tuple[LaneState, ...]
    seed: int


class Save(NamedTuple):
    """A snapshot with a name.

    Args:
        label: What people call it.
        snapshot: What was saved.
    """

    label: str
    snapshot: Snapshot


class Note(NamedTuple):
    """Something that was done, for the timeline.

    Args:
        chunk: First chunk that shows it.
        lane: Which lane; ``None`` is all.
        text: What.
    """

    chunk: int
    lane: int | None
    text: str


class Made(NamedTuple):
    """What a lane has made.

    Args:
        at: Where the lane stands behind it.
        chunk: The chunk.
        reading: What the meters say of it.
        has_hidden: Whether the lane's anchor has a hidden state.
    """

    at: LaneState
    chunk: LaneChunk
    reading: Reading
    has_hidden: bool
