"""What every pass of a stream reads and where it stands in time, found by running the stream on symbols."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import torch

from lightning_adastate.analysis.symbols import Forward, Label, SymbolicBackbone
from lightning_adastate.anchors.base import Anchor
from lightning_adastate.caches.base import Cache, count_frames
from lightning_adastate.schedules.base import Pass, Schedule
from lightning_adastate.streaming.context import ChunkContext
from lightning_adastate.streaming.observer import StepObserver
from lightning_adastate.streaming.plan import Plan
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import KV, Event, StreamState

Role = Literal["anchor", "history", "cached", "state", "live", "ahead"]
"""Whose frames they are. ``state``, ``live`` and ``ahead`` are denoised; the others are read."""


@dataclass(frozen=True)
class Slot:
    """A frame that a pass attends to.

    Args:
        role: Whose it is.
        first: Temporal index, of the first of its tokens.
        last: The same of the last; they differ where single tokens stand at places of their own.
        shares: What it holds: labels and one_pass much of each. A live frame holds itself.
        timestep: Noise of a live frame in the first pass of the group; 0 is clean.
        tokens: Its tokens, as a part of a full frame's.
    """

    role: Role
    first: float
    last: float
    shares: tuple[tuple[Label, float], ...]
    timestep: float = 0.0
    tokens: float = 1.0

    @property
    def is_live(self) -> bool:
        """Whether the pass computes it."""
        return self.role in ("state", "live", "ahead")


@dataclass(frozen=True)
class PassLayout:
    """Passes of a chunk that read the same, in order.

    Args:
        kind: ``denoise``, ``commit``, or ``encode`` for an event that encodes latents anew.
        timesteps: Timestep of the chunk's own frames in each of them.
        slots: What they attend to, in the order of memory.
    """

    kind: Literal["denoise", "commit", "encode"]
    timesteps: tuple[float, ...]
    slots: tuple[Slot, ...]

    @property
    def num_queries(self) -> int:
        """Count the frames one pass computes."""
        return sum(slot.is_live for slot in self.slots)

    @property
    def num_keys(self) -> float:
        """Count the frames one pass attends to, by their tokens."""
        return sum(slot.tokens for slot in self.slots)


@dataclass(frozen=True)
class ChunkLayout:
    """One chunk.

    Args:
        index: Which.
        first_frame: Number of its first content frame.
        events: What happens at its start.
        passes: What its passes read, in order.
        kept: Frames of keys and values that wait for the next chunk, by their tokens: window, history
            and all an anchor holds.
    """

    index: int
    first_frame: int
    events: tuple[Event, ...]
    passes: tuple[PassLayout, ...]
    kept: float


def lay_out(
    anchor: Anchor,
    cache: Cache,
    schedule: Schedule,
    num_chunks: int,
    timeline: Sequence[Event] = (),
    *,
    grid: tuple[int, int] = (4, 8),
) -> list[ChunkLayout]:
    """Stream symbols and return what every pass read.

    The stream is the real one: ``Streamer.step`` with a backbone that names every frame. What a slot holds
    is read back from the values the pass was given, and its temporal index from the angle of its keys.
    Which tokens an anchor selects is up to a model's queries; here it is random.

    Args:
        anchor: What stands in front of the window.
        cache: Which frames stay, and all temporal indices.
        schedule: Chunk size and passes.
        num_chunks: How many chunks.
        timeline: What happens on the way.
        grid: Rows and columns of a frame's tokens; it decides one_pass many an anchor packs a frame into.

    Raises:
        ValueError: If the parts do not fit, or there is no chunk.
    """
    if num_chunks < 1:
        raise ValueError(f"`num_chunks` must be 1 or more, got {num_chunks}")
    backbone = SymbolicBackbone(_count_labels(anchor, cache, schedule, num_chunks, timeline), grid)
    streamer = Streamer(backbone, anchor=anchor, cache=cache, schedule=schedule)
    text_BSD = torch.zeros(1, 1, 1)
    prompts = max((event.prompt or 0 for event in timeline), default=0)
    state = streamer.start(
        text_BSD, latent_shape=(1, *grid), timeline=timeline, later_texts=[text_BSD] * prompts
    )
    layouts = []
    with torch.no_grad():
        for _ in range(num_chunks):
            observer = _LayoutObserver(backbone)
            after = streamer.step(state, observer=observer).state
            layouts.append(observer.layout(streamer.schedule, state, after))
            state = after
    return layouts


class _LayoutObserver(StepObserver):
    """Tell a symbolic backbone what it is about to compute, and read back what its passes were given.

    Args:
        backbone: Names every frame.
    """

    def __init__(self, backbone: SymbolicBackbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.plans: list[tuple[Plan, int]] = []
        backbone.forwards.clear()

    def on_context(self, context: ChunkContext, *, reencodes: bool) -> None:
        """Name the frames that come next."""
        plan, state = context.plan, context.state
        first = state.first_frame - (plan.num_content if reencodes else 0)
        self.plans.append((plan, first))
        self.backbone.names = (
            *(Label("state", i, state.chunk) for i in range(plan.num_state)),
            *(
                Label("frame", first + i, state.chunk, reencoded=reencodes)
                for i in range(plan.num_content)
            ),
        )

    def layout(self, schedule: Schedule, state: StreamState, after: StreamState) -> ChunkLayout:
        """Return what the passes of a chunk read.

        Args:
            schedule: Its passes.
            state: The state before.
            after: The state after it.
        """
        backbone = self.backbone
        passes = schedule.passes_of(state)
        plan, _ = self.plans[-1]
        encodes = len(backbone.forwards) - len(passes)
        seen = []
        for forward, (encoded, first) in zip(backbone.forwards, self.plans[:-1], strict=False):
            slots = _slots(backbone, forward, encoded, None, first, state.chunk)
            seen.append(PassLayout("encode", forward.timesteps[:1], slots))
        for forward, one_pass in zip(backbone.forwards[encodes:], passes, strict=True):
            slots = _slots(backbone, forward, plan, one_pass, state.first_frame, state.chunk)
            seen.append(PassLayout(one_pass.kind, (one_pass.timestep,), slots))
        events = tuple(event for event in state.timeline if event.opens(state.chunk))
        parts = [*after.blocks, *after.history, *after.anchor.values()]
        kept = sum(_frames_of(kv, backbone.grid) for kv in parts)
        return ChunkLayout(state.chunk, state.first_frame, events, tuple(_merge(seen)), kept)


def _slots(
    backbone: SymbolicBackbone,
    forward: Forward,
    plan: Plan,
    one_pass: Pass | None,
    first_frame: int,
    chunk: int,
) -> tuple[Slot, ...]:
    """Return what one call of the backbone attended to, live frames last."""
    origin = plan.positions.live.key[-1]
    full = backbone.grid[0] * backbone.grid[1]
    slots: list[Slot] = []
    window, start = forward.window, 0

    def read(role: Role, num_tokens: int) -> None:
        nonlocal start
        assert window is not None
        content = backbone.decode(window, start, num_tokens)
        place = (origin + content.first, origin + content.last)
        slots.append(Slot(role, *place, content.shares, 0.0, num_tokens / full))
        start += num_tokens

    if window is not None:
        for part in plan.anchor if one_pass is None or one_pass.reads_anchor else ():
            for _ in range(part.num_frames):
                read("anchor", part.key_LBFTND.shape[3])
        rest = (window.num_tokens - start) // full
        for left in range(rest, 0, -1):
            read("cached" if left <= count_frames(plan.retained) else "history", full)
    number = first_frame
    for i, (key, timestep) in enumerate(
        zip(forward.positions.key, forward.timesteps, strict=True)
    ):
        own = i - plan.num_state
        role: Role = "state" if own < 0 else "live" if own < plan.num_content else "ahead"
        label = Label("state", i, chunk) if own < 0 else Label("frame", number + own, chunk)
        slots.append(Slot(role, origin + key, origin + key, ((label, 1.0),), timestep))
    return tuple(slots)


def _merge(passes: Sequence[PassLayout]) -> Iterator[PassLayout]:
    """Join passes one behind the other that differ in noise alone."""

    def what(seen: PassLayout) -> tuple[str, tuple[Slot, ...]]:
        return seen.kind, tuple(replace(slot, timestep=0.0) for slot in seen.slots)

    for _, group in groupby(passes, key=what):
        same = list(group)
        yield replace(same[0], timesteps=tuple(step for seen in same for step in seen.timesteps))


def _frames_of(kv: KV, grid: tuple[int, int]) -> float:
    """Count frames by tokens; what is kept once, as key and value alike, is half a frame."""
    share = kv.num_frames * kv.key_LBFTND.shape[3] / (grid[0] * grid[1])
    return share / 2 if kv.value_LBFTND is kv.key_LBFTND else share


def _count_labels(
    anchor: Anchor,
    cache: Cache,
    schedule: Schedule,
    num_chunks: int,
    timeline: Sequence[Event],
) -> int:
    """Return one_pass many frames can be committed or encoded anew at most."""
    labels = 0
    for chunk in range(num_chunks):
        labels += schedule.frames_of(chunk) + anchor.num_state_frames
        encodes = [event for event in timeline if event.opens(chunk) and event.recache_frames]
        labels += len(encodes) * (cache.max_frames + anchor.num_frames)
    return labels
