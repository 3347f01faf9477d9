"""How a chunk is laid out: what stays, what the anchor shows, and where everything stands in time."""

# Shapes: L layers, B batch, F frames, T tokens, N heads, D head dim.

from __future__ import annotations

from dataclasses import dataclass, replace

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.caches.base import Cache, count_frames, split_oldest
from lightning_adastate.types import KV, Contents, Event, Positions, StreamState, WindowFrames


@dataclass(frozen=True)
class Plan:
    """Everything that is constant during one chunk.

    Args:
        contents: The anchor's contents after the eviction.
        kept: Cached content that stays, oldest first.
        anchor: What the anchor shows, in its order.
        positions: Temporal index of every part.
        num_state: Hidden frames denoised with the chunk.
        num_content: The chunk's own frames.
        ahead: Sizes of the chunks ahead that are denoised with it.
        history: Evicted frames that a commit pass may read.
    """

    contents: Contents
    kept: tuple[KV, ...]
    anchor: tuple[KV, ...]
    positions: Positions
    num_state: int
    num_content: int
    ahead: tuple[int, ...] = ()
    history: tuple[KV, ...] = ()


def plan_chunk(
    anchor: Anchor,
    cache: Cache,
    state: StreamState,
    num_content: int,
    event: Event | None,
    ahead: tuple[int, ...] = (),
) -> Plan:
    """Make room, let the anchor absorb what left, and index everything. Once per chunk."""
    contents, history = state.anchor, state.history
    room = cache.make_room(
        state.blocks,
        num_new=num_content + sum(ahead),
        anchor_shown=anchor.num_shown(contents),
        anchor_full=anchor.num_frames,
    )
    if room.evicted is not None:
        contents = anchor.absorb(contents, room.evicted, room.kept)
        history = (*history, room.evicted)
        history = split_oldest(history, count_frames(history) - cache.history_frames).kept
    last = state.first_frame + num_content + sum(ahead)
    births = tuple(range(state.first_frame, last))
    num_state = anchor.num_live_frames(contents)
    plan = place_frames(anchor, cache, contents, room.kept, births, num_state, event)
    return replace(plan, num_content=num_content, ahead=ahead, history=history)


def place_frames(
    anchor: Anchor,
    cache: Cache,
    contents: Contents,
    kept: tuple[KV, ...],
    live_births: tuple[int, ...],
    num_state: int = 0,
    event: Event | None = None,
) -> Plan:
    """Ask the anchor what it shows and the cache where everything stands."""
    cached_births = tuple(birth for block in kept for birth in block.births)
    shown = anchor.read(contents, (*cached_births, *live_births)[0])
    anchor_births = tuple(birth for part in shown for birth in part.births)
    frames = WindowFrames(anchor_births, num_state, cached_births, live_births)
    positions = cache.positions(frames, event)
    return Plan(contents, kept, shown, positions, num_state, len(live_births))
