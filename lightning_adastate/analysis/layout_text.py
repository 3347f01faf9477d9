"""A layout in words: which frames, in which parts, at which temporal index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from lightning_adastate.analysis.layout import ChunkLayout, PassLayout, Slot
from lightning_adastate.analysis.symbols import Label
from lightning_adastate.types import Event

MOST_SHARES = 3
"""Parts of a mixture that are named; the rest are counted."""


def joint_passes(chunk: ChunkLayout) -> Iterator[tuple[str, PassLayout]]:
    """Yield the passes of a chunk under their names, those that read the same as one."""

    def slots(seen: PassLayout) -> tuple[object, ...]:
        still = tuple(replace(slot, timestep=0.0) for slot in seen.slots)
        return seen.kind == "encode", still

    for _, group in groupby(chunk.passes, key=slots):
        same = list(group)
        yield ", ".join(_passes(seen) for seen in same), same[0]


def _passes(seen: PassLayout) -> str:
    """Name passes by their kind, and by their noise where that is not plain."""
    times = " ".join(f"{step:.0f}" for step in seen.timesteps)
    if seen.kind == "denoise":
        return f"denoise {times}"
    return seen.kind if not any(seen.timesteps) else f"{seen.kind} {times}"


def name_of(label: Label) -> str:
    """Name a frame: ``7``, ``7'`` where it was encoded anew, ``7~357`` where it is cached noisy, ``s2`` a state."""
    if label.kind == "state":
        place = f".{label.number}" if label.number else ""
        return f"s{label.chunk}{place}"
    noise = f"~{label.timestep:.0f}" if label.timestep else ""
    return f"{label.number}{noise}" + ("'" if label.reencoded else "")


def mixture(slot: Slot) -> str:
    """Return what a slot holds: one name, or the largest shares of a mixture."""
    if len(slot.shares) == 1:
        return name_of(slot.shares[0][0])
    ranked = sorted(slot.shares, key=lambda share: -share[1])
    shown = " + ".join(
        f"{100 * part:.0f}% {name_of(label)}" for label, part in ranked[:MOST_SHARES]
    )
    more = len(ranked) - MOST_SHARES
    return f"({shown}{f' + {more} more' if more > 0 else ''})"


def describe(slots: Sequence[Slot]) -> str:
    """Say what slots hold and where they stand: ``3-5 @ 2..4``; runs of frames are joined."""
    words = []
    for run in _runs(slots):
        first, last = run[0], run[-1]
        names = mixture(first) if len(run) == 1 else f"{mixture(first)}-{mixture(last)}"
        noise = f" ~{first.timestep:.0f}" if first.role == "ahead" else ""
        packed = f" in {first.tokens:.2g} of its tokens" if first.tokens < 1 else ""
        words.append(f"{names}{noise}{packed} @ {_place(first.first, last.last)}")
    return ", ".join(words)


def _place(first: float, last: float) -> str:
    return f"{first:g}" if first == last else f"{first:g}..{last:g}"


def _runs(slots: Sequence[Slot]) -> Iterator[list[Slot]]:
    """Yield slots together whose frames and indices follow one another."""
    run: list[Slot] = []
    for slot in slots:
        if run and not _follows(run[-1], slot):
            yield run
            run = []
        run.append(slot)
    if run:
        yield run


def _follows(before: Slot, slot: Slot) -> bool:
    if len(before.shares) > 1 or len(slot.shares) > 1 or before.tokens != slot.tokens:
        return False
    (old, _), (new, _) = before.shares[0], slot.shares[0]
    alike = new._replace(number=old.number, chunk=old.chunk) == old and new.kind == "frame"
    steps = (new.number - old.number, slot.first - before.last, slot.timestep - before.timestep)
    return alike and steps == (1, 1, 0)


def event_text(event: Event) -> str:
    """Say in a few words what an event does."""
    said = []
    if event.prompt is not None:
        said.append(f"prompt {event.prompt}")
    if event.reset_anchor:
        said.append("anchor emptied")
    if event.keep_frames is not None:
        said.append(f"{event.keep_frames} cached frames stay")
    if event.recache_frames:
        image = ", the first as an image latent" if event.reencode_first else ""
        said.append(f"{event.recache_frames} latents encoded anew{image}")
    if event.live_start is not None:
        said.append(f"live frames at {event.live_start:g}")
    return ", ".join(said) or "nothing"
