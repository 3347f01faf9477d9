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
        retained: Cached content that stays, oldest first.
        anchor: What the anchor shows, in its order.
        positions: Temporal index of every part.
        num_state: Hidden frames denoised with the chunk.
        num_content: The chunk's own frames.
        ahead: Sizes of the chunks ahead that are denoised with it.
        history: Evicted frames that a commit pass may read.
    """

    contents: Contents
    retained: tuple[KV, ...]
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
        contents = anchor.absorb(contents, room.evicted, room.retained)
        history = (*history, room.evicted)
        history = split_oldest(history, count_frames(history) - cache.history_frames).retained
    last = state.first_frame + num_content + sum(ahead)
    frame_indices = tuple(range(state.first_frame, last))
    num_state = anchor.num_live_frames(contents)
    plan = place_frames(anchor, cache, contents, room.retained, frame_indices, num_state, event)
    return replace(plan, num_content=num_content, ahead=ahead, history=history)


def place_frames(
    anchor: Anchor,
    cache: Cache,
    contents: Contents,
    retained: tuple[KV, ...],
    live_frame_indices: tuple[int, ...],
    num_state: int = 0,
    event: Event | None = None,
) -> Plan:
    """Ask the anchor what it shows and the cache where everything stands.

    Raises:
        ValueError: If the anchor shows more frames than it has room for.
    """
    cached_frame_indices = tuple(
        frame_index for block in retained for frame_index in block.frame_indices
    )
    shown = anchor.read(contents, (*cached_frame_indices, *live_frame_indices)[0])
    anchor_frame_indices = tuple(
        frame_index for part in shown for frame_index in part.frame_indices
    )
    if len(anchor_frame_indices) > anchor.num_frames:
        raise ValueError(
            f"{type(anchor).__name__}.read shows {len(anchor_frame_indices)} frames, and its `num_frames` is "
            f"{anchor.num_frames}: memory would grow; let `absorb` keep no more than `read` may show"
        )
    frames = WindowFrames(
        anchor_frame_indices, num_state, cached_frame_indices, live_frame_indices
    )
    positions = cache.positions(frames, event)
    return Plan(contents, retained, shown, positions, num_state, len(live_frame_indices))
