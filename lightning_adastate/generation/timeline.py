"""The timeline of `generate`: prompt switches, flushes, cuts and restarts, as YAML."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lightning_adastate.data import read_prompts
from lightning_adastate.generation.clock import StreamClock, seconds_of
from lightning_adastate.streaming.events import kv_flush, prompt_switch, restart, rope_cut
from lightning_adastate.types import Event

Policy = Literal["keep", "recache", "rebase", "drop", "flush", "cut", "restart"]


@dataclass(frozen=True)
class Change:
    """Something that happens at the start of a chunk.

    Args:
        chunk: The chunk it opens; for ``restart`` how many chunks lie between two.
        prompt: New prompt from here on: text, or a text file with one line per stream. ``None`` keeps it.
        policy: What happens to the cache. ``keep``: nothing. ``recache``: the newest latents are encoded
            anew, the anchor stays. ``rebase``: the anchor begins anew as well. ``drop``: all is forgotten.
            ``flush``: only the newest frames stay beside the anchor. ``cut``: that, and the chunk stands
            far away in time. ``restart``: again and again, all but the newest latents is forgotten.
        frames: Frames encoded anew (9, of a restart 3), or left by a flush or cut (2); ``None`` is that
            number.
        at: Instead of ``chunk``: a time in the video that is written, 30s or 2min. It opens the first chunk that
            begins then or later; for ``restart`` it is the time between two.

    Raises:
        ValueError: If a number does not fit the policy, or there is nothing to do.
    """

    chunk: int | None = None
    prompt: str | None = None
    policy: Policy = "recache"
    frames: int | None = None
    at: str | float | None = None

    def __post_init__(self) -> None:
        if (self.chunk is None) == (self.at is None):
            raise ValueError(
                f"a change of the timeline needs either `chunk` or `at`, got {self.chunk} and {self.at}"
            )
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"`timeline.chunk` must be 1 or more, got {self.chunk}")
        if self.at is not None:
            seconds_of(self.at, "timeline.at")
        if self.frames is not None and self.frames < 0:
            raise ValueError(f"`timeline.frames` must be 0 or more, got {self.frames}")
        if self.prompt is None and self.policy == "keep":
            raise ValueError(
                "a change that keeps cache and prompt changes nothing; give a `prompt`"
            )
        if self.prompt is not None and self.policy == "restart":
            raise ValueError("a restart comes again and again and has no `prompt` of its own")

    def event(self, prompt: int | None) -> Event:
        """Return it as an event; ``prompt`` is the index of its prompt.

        Raises:
            ValueError: If it is given by time: only with a frame rate that is a chunk.
        """
        if self.chunk is None:
            raise ValueError(
                f"a change at {self.at} needs a codec and a frame rate, which only `generate` has; give its `chunk`"
            )
        if self.policy == "flush":
            return kv_flush(self.chunk, keep_frames=self._frames(2), prompt=prompt)
        if self.policy == "cut":
            return rope_cut(self.chunk, keep_frames=self._frames(2), prompt=prompt)
        if self.policy == "restart":
            return restart(self.chunk, overlap_frames=self._frames(3))
        switch = prompt_switch(self.chunk, 0, self.policy, frames=self._frames(9))
        return replace(switch, prompt=prompt)

    def _frames(self, default: int) -> int:
        return default if self.frames is None else self.frames


def in_chunks(changes: Sequence[Change], clock: StreamClock) -> list[Change]:
    """Return the changes with all of them given by chunk."""
    return [change if change.at is None else _in_chunk(change, clock) for change in changes]


def _in_chunk(change: Change, clock: StreamClock) -> Change:
    assert change.at is not None
    seconds = seconds_of(change.at, "timeline.at")
    if change.policy == "restart":
        return replace(change, at=None, chunk=clock.chunks_between(seconds))
    return replace(change, at=None, chunk=clock.first_chunk + clock.chunks_of(seconds))


def check_timeline(changes: Sequence[Change], first: int, end: int | None) -> None:
    """Refuse what can never happen.

    Args:
        changes: What happens, by chunk.
        first: The first chunk that is made.
        end: The chunk behind the last one; ``None`` is open.

    Raises:
        ValueError: If a change opens a chunk that was made before, or that will not be.
    """
    for change in changes:
        event = change.event(None)
        if event.every is None and event.chunk < first:
            raise ValueError(
                f"the timeline changes chunk {event.chunk}, and the saved stream goes on with chunk {first}; "
                f"chunks are counted from the stream's beginning"
            )
        coming = next(filter(event.opens, itertools.count(max(first, event.chunk))))
        if end is not None and coming >= end:
            raise ValueError(
                f"the timeline changes chunk {coming}, and the stream ends with chunk {end - 1}; make it longer "
                "(`generation.num_chunks`), or give `generation.state_out` to go on later"
            )


def read_timeline(
    changes: Sequence[Change], num_streams: int, first_prompt: int
) -> tuple[list[Event], list[list[str]]]:
    """Return the events, and the prompts they switch to, one list per switch.

    Args:
        changes: What happens.
        num_streams: Streams in lock-step; each new prompt is one for all or one for each.
        first_prompt: Index of the first new prompt among the stream's.

    Raises:
        ValueError: If two changes open the same chunk, or prompts do not fit the streams.
    """
    chunks = [change.chunk for change in changes if change.policy != "restart"]
    twice = {chunk for chunk in chunks if chunk is not None and chunks.count(chunk) > 1}
    if twice:
        raise ValueError(f"chunk {min(twice)} has two changes in the timeline; join them into one")
    events: list[Event] = []
    prompts: list[list[str]] = []
    for change in changes:
        index = None
        if change.prompt is not None:
            index = first_prompt + len(prompts)
            prompts.append(read_lines(change.prompt, num_streams))
        events.append(change.event(index))
    return events, prompts


def read_lines(prompt: str, num_streams: int) -> list[str]:
    """Return a change's prompt for each stream.

    Raises:
        ValueError: If they do not fit the streams.
    """
    lines = read_prompts(prompt)
    if len(lines) not in (1, num_streams):
        raise ValueError(
            f"the timeline's prompt {prompt!r} has {len(lines)} lines for "
            f"{num_streams} streams; give one for all or one for each"
        )
    return lines * num_streams if len(lines) == 1 else lines
