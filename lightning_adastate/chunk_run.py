"""One chunk: how it is laid out, its passes (what they read, their noise), and how it is closed."""

# Shapes: L layers, B batch, F frames, S tokens, N heads, D head dim, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.backbones.base import Backbone
from lightning_adastate.caches.base import Cache, split_oldest
from lightning_adastate.noise import NoiseKey, NoiseSource, Slot
from lightning_adastate.rope import RopeTable, rope_table, rotate
from lightning_adastate.types import (
    KV,
    BackboneOutput,
    Chunk,
    Committed,
    Contents,
    Event,
    LivePositions,
    Positions,
    StreamState,
    Window,
    WindowFrames,
)

KVGradient = Literal["detach", "straight_through", "state", "all"]
"""What the cached keys and values pass back to the chunk that made them.

``detach``: nothing (the paper). ``straight_through``: the clean values, the exit pass's gradient (the
public Self-Forcing code). ``state``: the clean pass keeps its graph for state frames. ``all``: for
state and content.
"""


class Scratch:
    """Reusable memory for the rotated window: allocated once, filled once per chunk. Holds no state."""

    def __init__(self) -> None:
        self._buffers: dict[str, tuple[Tensor, Tensor]] = {}

    def buffers(self, name: str, like: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return key and value memory of ``shape``, the same as last time if that fits."""
        found = self._buffers.get(name)
        if found is None or found[0].shape != shape or found[0].dtype != like.dtype:
            found = (like.new_empty(shape), like.new_empty(shape))
            self._buffers[name] = found
        return found


@dataclass(frozen=True)
class Plan:
    """Everything that is constant during one chunk."""

    contents: Contents
    kept: tuple[KV, ...]
    anchor_kv: KV | None
    positions: Positions
    num_state: int
    num_content: int


class ChunkRun:
    """One chunk: how it is laid out, its passes (what they read, their noise), and how it is closed."""

    def __init__(
        self,
        backbone: Backbone,
        state: StreamState,
        plan: Plan,
        noise: NoiseSource,
        scratch: Scratch | None = None,
    ) -> None:
        self.backbone = backbone
        self.state = state
        self.plan = plan
        self.noise = noise
        self.grad = torch.is_grad_enabled()
        self.scratch = None if self.grad else scratch
        self.origin = plan.positions.live.key[-1]
        self.windows: dict[tuple[bool, int | None], Window | None] = {}

    def forward(
        self,
        latents_BFCHW: Tensor,
        timestep_BF: Tensor,
        *,
        return_kv: bool,
        reads_anchor: bool = True,
        reads_window: int | None = None,
    ) -> BackboneOutput:
        """Call the backbone on the live frames, state frames first.

        Args:
            latents_BFCHW: The live frames ``[B, F, C, H, W]``.
            timestep_BF: Timestep of each, ``[B or 1, F]``.
            return_kv: Also return their raw keys and values.
            reads_anchor: Whether the pass sees the anchor.
            reads_window: How many of the newest cached frames it sees; ``None`` is all.
        """
        assert self.state.text_kv is not None, "a loaded state needs `Streamer.resume`"
        query, key = self.plan.positions.live
        return self.backbone(  # type: ignore[no-any-return]
            latents_BFCHW,
            timestep_BF=timestep_BF.expand(latents_BFCHW.shape[0], -1),
            text=self.state.text_kv,
            positions=LivePositions(self._relative(query), self._relative(key)),
            window=self.window(reads_anchor, reads_window),
            return_kv=return_kv,
        )

    def draw(self, step: int, slot: Slot, num_frames: int) -> Tensor:
        """Draw the noise of one slot and move it to the stream's device."""
        state = self.state
        drawn = self.noise.draw(
            NoiseKey(state.chunk, step, slot),
            seed=state.seed,
            stream_ids=state.stream_ids,
            shape_FCHW=(num_frames, *state.latent_shape),
        )
        return drawn.to(state.texts_PBSD.device, non_blocking=True)

    def draw_live(self, step: int) -> Tensor:
        """Draw for all live frames, each slot from its own stream of noise."""
        content = self.draw(step, "content", self.plan.num_content)
        if not self.plan.num_state:
            return content
        return torch.cat([self.draw(step, "state", self.plan.num_state), content], dim=1)

    def first_latents(self, given_BFCHW: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the live frames before the first pass, and 1 for each that is to be denoised."""
        live = self.draw_live(0)
        free_F = live.new_ones(live.shape[1])
        if given_BFCHW is not None:
            content = live[:, self.plan.num_state :]
            if given_BFCHW.shape != content.shape:
                raise ValueError(
                    f"expected given latents of {tuple(content.shape)}, "
                    f"got {tuple(given_BFCHW.shape)}"
                )
            live = torch.cat([live[:, : self.plan.num_state], given_BFCHW.to(live)], dim=1)
            free_F[self.plan.num_state :] = 0.0
        return live, free_F

    def window(self, reads_anchor: bool, reads_window: int | None) -> Window | None:
        """Gather what a pass reads and rotate it, once per chunk and kind of read."""
        reads = (reads_anchor, reads_window)
        if reads not in self.windows:
            with torch.set_grad_enabled(self.grad):
                self.windows[reads] = self._gather(reads_anchor, reads_window)
        return self.windows[reads]

    def _relative(self, index: Sequence[float]) -> tuple[float, ...]:
        """Subtract the chunk's own index while both are integers, so no index is too large."""
        return tuple(float(position - self.origin) for position in index)

    def _gather(self, reads_anchor: bool, reads_window: int | None) -> Window | None:
        parts = list(self.plan.kept)
        index = self.plan.positions.cached
        if reads_window is not None:
            parts = list(split_oldest(parts, len(index) - reads_window).kept)
            index = index[len(index) - sum(part.num_frames for part in parts) :]
        if reads_anchor and self.plan.anchor_kv is not None:
            parts.insert(0, self.plan.anchor_kv)
            index = (*self.plan.positions.anchor, *index)
        if not parts:
            return None
        sample = parts[0].key_LBFTND
        layers, batch, _, tokens, heads, head_dim = sample.shape
        grid = self.backbone.token_grid(*self.state.latent_shape[1:])
        table = rope_table(self._relative(index), *grid, head_dim, sample.device)
        if self.scratch is None:
            whole = KV.cat(parts)
            key = rotate(whole.key_LBFTND.flatten(2, 3), table)
            return Window(key, whole.value_LBFTND.flatten(2, 3), table.num_tokens, False)
        room = (self.plan.num_state + self.plan.num_content) * tokens
        shape = (layers, batch, table.num_tokens + room, heads, head_dim)
        key, value = self.scratch.buffers(f"{reads_anchor} {reads_window}", sample, shape)
        start = 0
        for part in parts:
            stop = start + part.num_frames * tokens
            piece = RopeTable(table.cos_S1P[start:stop], table.sin_S1P[start:stop])
            key[:, :, start:stop] = rotate(part.key_LBFTND.flatten(2, 3), piece)
            value[:, :, start:stop] = part.value_LBFTND.flatten(2, 3)
            start = stop
        return Window(key, value, start, True)


def plan_chunk(
    anchor: Anchor, cache: Cache, state: StreamState, num_content: int, event: Event | None
) -> Plan:
    """Make room, let the anchor absorb what left, and index everything. Once per chunk."""
    contents = state.anchor
    room = cache.make_room(
        state.blocks,
        num_new=num_content,
        anchor_shown=anchor.num_shown(contents),
        anchor_full=anchor.num_frames,
    )
    if room.evicted is not None:
        contents = anchor.absorb(contents, room.evicted, room.kept)
    births = tuple(range(state.first_frame, state.first_frame + num_content))
    num_state = anchor.num_live_frames(contents)
    return place_frames(anchor, cache, contents, room.kept, births, num_state, event)


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
    anchor_kv = anchor.read(contents, (*cached_births, *live_births)[0])
    anchor_births = anchor_kv.births if anchor_kv is not None else ()
    frames = WindowFrames(anchor_births, num_state, cached_births, live_births)
    positions = cache.positions(frames, event)
    return Plan(contents, kept, anchor_kv, positions, num_state, len(live_births))


def close_chunk(
    anchor: Anchor,
    cache: Cache,
    state: StreamState,
    plan: Plan,
    x0_BFCHW: Tensor,
    kv: KV,
    kv_gradient: KVGradient,
) -> Chunk:
    """Hand the committed frames to anchor and window, and return the chunk."""
    count = plan.num_state
    first, last = state.first_frame, state.first_frame + plan.num_content
    hidden, content = x0_BFCHW[:, :count], x0_BFCHW[:, count:]
    if kv_gradient == "detach":
        kv = kv.detach()
    state_kv = replace(kv.frames(0, count), births=tuple(range(first, first + count)))
    content_kv = replace(kv.frames(count), births=tuple(range(first, last)))
    if kv_gradient == "state":
        content_kv = content_kv.detach()
    committed = Committed(
        content=content_kv,
        content_latents_BFCHW=content.detach(),
        state=state_kv if count else None,
        state_latents_BFCHW=hidden.detach() if count else None,
    )
    recent = content.detach()
    if state.recent_BFCHW is not None:
        recent = torch.cat([state.recent_BFCHW, recent], dim=1)
    after = replace(
        state,
        chunk=state.chunk + 1,
        first_frame=last,
        blocks=(*plan.kept, content_kv),
        anchor=anchor.commit(plan.contents, committed),
        recent_BFCHW=recent[:, -cache.max_frames :],
    )
    return Chunk(state.chunk, first, content, hidden if count else None, after)
