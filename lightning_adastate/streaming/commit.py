"""How a chunk is closed: what it hands to anchor and window."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.caches.base import Cache
from lightning_adastate.streaming.plan import Plan
from lightning_adastate.types import BackboneOutput, Committed, StreamState

KVGradient = Literal["detach", "straight_through", "state", "all"]
"""What the cached keys and values pass back to the chunk that made them.

``detach``: nothing (the paper). ``straight_through``: the clean values, the exit pass's gradient (the
public Self-Forcing code). ``state``: the clean pass keeps its graph for state frames. ``all``: for
state and content.
"""


def close_chunk(
    anchor: Anchor,
    cache: Cache,
    state: StreamState,
    plan: Plan,
    x0_BFCHW: Tensor,
    cached_output: BackboneOutput,
    kv_gradient: KVGradient,
    grid: tuple[int, int],
) -> StreamState:
    """Hand the committed frames to anchor and window, and return the state after the chunk.

    Args:
        anchor: Gets state frames and content.
        cache: Says how many clean latents are kept.
        state: The state before.
        plan: The chunk's layout.
        x0_BFCHW: Its clean live frames, state frames first.
        cached_output: Keys, values and queries of the pass that is committed.
        kv_gradient: What they pass back.
        grid: Rows and columns of a frame's tokens.
    """
    kv, query = cached_output.kv, cached_output.query_LBFTND
    assert kv is not None, "a schedule must commit one pass"
    count = plan.num_state
    first, last = state.first_frame, state.first_frame + plan.num_content
    hidden, content = x0_BFCHW[:, :count], x0_BFCHW[:, count:]
    if kv_gradient == "detach":
        kv = kv.detach()
    state_kv = replace(kv.frames(0, count), frame_indices=tuple(range(first, first + count)))
    content_kv = replace(kv.frames(count), frame_indices=tuple(range(first, last)))
    if kv_gradient == "state":
        content_kv = content_kv.detach()
    committed = Committed(
        content=content_kv,
        content_latents_BFCHW=content.detach(),
        state=state_kv if count else None,
        state_latents_BFCHW=hidden.detach() if count else None,
        grid=grid,
        query_LBFTND=None if query is None else query[:, :, count:].detach(),
    )
    recent = content.detach()
    if state.recent_BFCHW is not None:
        recent = torch.cat([state.recent_BFCHW, recent], dim=1)
    return replace(
        state,
        chunk=state.chunk + 1,
        first_frame=last,
        blocks=(*plan.retained, content_kv),
        anchor=anchor.commit(plan.contents, committed),
        recent_BFCHW=recent[:, -cache.max_frames :],
        history=plan.history,
    )
