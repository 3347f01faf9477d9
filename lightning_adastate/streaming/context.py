"""One chunk: how it is laid out, and its passes: what they read, and their noise."""

# Shapes: L layers, B batch, F frames, S tokens, N heads, D head dim, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.backbones.base import Backbone
from lightning_adastate.caches.base import count_frames, split_oldest
from lightning_adastate.noise import NoiseKey, NoiseSource, Slot
from lightning_adastate.rope import RopeTable, places_table, rope_table, rotate, rotate_into
from lightning_adastate.streaming.buffers import StreamBuffers
from lightning_adastate.streaming.cuda_graphs import Call
from lightning_adastate.streaming.observer import StepObserver
from lightning_adastate.streaming.plan import Plan
from lightning_adastate.types import (
    KV,
    BackboneOutput,
    LivePositions,
    StreamState,
    Window,
)


class PassReads(NamedTuple):
    """What a pass may read beside its live frames.

    Args:
        anchor: Whether it sees the anchor.
        window: How many of the newest cached frames it sees; ``None`` is all.
    """

    anchor: bool = True
    window: int | None = None


class ChunkContext:
    """One chunk: how it is laid out, and its passes: what they read, and their noise."""

    def __init__(
        self,
        backbone: Backbone,
        state: StreamState,
        plan: Plan,
        noise: NoiseSource,
        buffers: StreamBuffers | None = None,
        *,
        query: bool = False,
        observer: StepObserver | None = None,
    ) -> None:
        self.backbone = backbone
        self.query = query or (observer is not None and observer.needs_kv)
        self.observer = observer
        self.state = state
        self.plan = plan
        self.noise = noise
        self.grad = torch.is_grad_enabled()
        self.buffers = None if self.grad else buffers
        self.origin = plan.positions.live.key[-1]
        self.windows: dict[PassReads, Window | None] = {}

    def forward(
        self,
        latents_BFCHW: Tensor,
        timestep: Tensor | tuple[float, ...],
        *,
        return_kv: bool,
        reads_anchor: bool = True,
        reads_window: int | None = None,
        kv_only: bool = False,
    ) -> BackboneOutput:
        """Call the backbone on the live frames, state frames first.

        Args:
            latents_BFCHW: The live frames ``[B, F, C, H, W]``.
            timestep: Timestep of each: a tensor ``[B, F]``, or F numbers for all rows.
            return_kv: Also return their raw keys and values.
            reads_anchor: Whether the pass sees the anchor.
            reads_window: How many of the newest cached frames it sees; ``None`` is all.
            kv_only: Nobody reads its velocity. It is spared where the backbone can and no observer looks.
        """
        assert self.state.text_kv is not None, "a loaded state needs `Streamer.resume`"
        reads = PassReads(reads_anchor, reads_window)
        watched = self.observer is not None and self.observer.needs_kv
        shows_kv = return_kv or watched
        ends_early = kv_only and self.backbone.ends_at_kv and self.observer is None
        more = {"kv_only": True} if ends_early else {}  # others need not know the word
        positions = self.live_positions(latents_BFCHW.shape[1])
        window = self.window(reads)
        time = None
        if isinstance(timestep, tuple) and self.buffers is not None:
            time = self.buffers.time(timestep, self.backbone, latents_BFCHW)
        text = self.state.text_kv
        steady = time is not None and window is not None and window.is_steady
        if recorded := steady and self.backbone.cuda_graphs == "steady":
            assert self.buffers is not None
            text = self.buffers.text(text)
        numbers = timestep
        if isinstance(timestep, tuple):
            timestep = self.per_frame(timestep, latents_BFCHW)
        timestep_BF = timestep.expand(latents_BFCHW.shape[0], -1)

        def call(live_BFCHW: Tensor) -> BackboneOutput:
            return self.backbone(  # type: ignore[no-any-return]
                live_BFCHW,
                timestep_BF=timestep_BF,
                time=time,
                text=text,
                positions=positions,
                window=window,
                return_kv=shows_kv,
                return_query=shows_kv and self.query,
                **more,
            )

        if recorded:
            assert window is not None
            shows = (shows_kv, ends_early)
            kind = (numbers, positions, window.num_tokens, shows, latents_BFCHW.shape)
            memory = (window.key_LBSND, window.value_LBSND, time, text)
            output = self._replay(kind, memory, positions, call, latents_BFCHW)
        else:
            output = call(latents_BFCHW)
        if self.observer is not None:
            each = numbers if isinstance(numbers, tuple) else tuple(numbers[0].tolist())
            self.observer.on_pass(self, reads, each, output)
        return output if return_kv else output._replace(kv=None, query_LBFTND=None)

    def live_positions(self, num_frames: int) -> LivePositions:
        """Return the temporal indices of the first live frames, relative to the chunk's last."""
        query, key = (part[:num_frames] for part in self.plan.positions.live)
        return LivePositions(self.relative(query), self.relative(key))

    def _replay(
        self,
        kind: Hashable,
        memory: tuple[object, ...],
        positions: LivePositions,
        call: Call,
        latents_BFCHW: Tensor,
    ) -> BackboneOutput:
        """Make a pass of a full window from its recording.

        The recording must keep alive all that it reads: rotation tables too, which are memoised and may
        be forgotten.
        """
        assert self.buffers is not None
        grid = self.backbone.token_grid(*self.state.latent_shape[1:])
        device, head_dim = latents_BFCHW.device, self.backbone.head_dim
        tables = (rope_table(part, *grid, head_dim, device) for part in positions)
        return self.buffers.graphs.run(kind, (*memory, *tables), call, latents_BFCHW)

    def per_frame(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        """Return one number per live frame, ``[1, F]``."""
        if self.buffers is not None:
            return self.buffers.numbers(values, like)
        return like.new_tensor([values])

    def draw(self, step: int, slot: Slot, num_frames: int, ahead: int = 0) -> Tensor:
        """Draw the noise of one slot and move it to the stream's device."""
        state = self.state
        early = None if self.buffers is None else self.buffers.ahead
        draw = self.noise.draw if early is None else partial(early.draw, self.noise)
        drawn = draw(
            NoiseKey(state.chunk + ahead, step, slot),
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

    def draw_ahead(self, place: int, step: int) -> Tensor:
        """Draw for one of the chunks ahead; it is the noise it would have had on its own."""
        return self.draw(step, "content", self.plan.ahead[place], ahead=place + 1)

    def pending_blocks(self) -> list[Tensor]:
        """Return the part-denoised latents of the chunks ahead that have begun, oldest first."""
        if self.state.pending_BFCHW is None:
            return []
        rest = self.state.pending_BFCHW[:, self.plan.num_content :]
        sizes: list[int] = []
        while sum(sizes) < rest.shape[1]:
            sizes.append(self.plan.ahead[len(sizes)])
        return list(rest.split(sizes, dim=1)) if sizes else []

    def first_latents(self, given_BFCHW: Tensor | None) -> tuple[Tensor, tuple[float, ...]]:
        """Return the chunk's live frames before the first pass, and 1 for each to be denoised.

        Raises:
            ValueError: If given frames have another shape than the chunk.
        """
        state, count = self.state, self.plan.num_state
        if given_BFCHW is not None:
            wanted = (state.batch_size, self.plan.num_content, *state.latent_shape)
            if given_BFCHW.shape != wanted:
                raise ValueError(
                    f"expected given latents of {wanted}, got {tuple(given_BFCHW.shape)}"
                )
            live = given_BFCHW.to(state.texts_PBSD.device, torch.float32)
            if count:
                live = torch.cat([self.draw(0, "state", count), live], dim=1)
            return live, (*(1.0,) * count, *(0.0,) * self.plan.num_content)
        if state.pending_BFCHW is None:
            live = self.draw_live(0)
        else:
            live = state.pending_BFCHW[:, : self.plan.num_content]
        return live, (1.0,) * live.shape[1]

    def window(self, reads: PassReads) -> Window | None:
        """Gather what a pass reads and rotate it, once per chunk and kind of read."""
        if reads not in self.windows:
            with torch.set_grad_enabled(self.grad):
                self.windows[reads] = self._gather(reads)
        return self.windows[reads]

    def relative(self, index: Sequence[float]) -> tuple[float, ...]:
        """Subtract the chunk's own index while both are integers, so no index is too large."""
        return tuple(float(position - self.origin) for position in index)

    def _gather(self, reads: PassReads) -> Window | None:
        parts, index = self.frames_read(reads)
        if not parts:
            return None
        sample = parts[0].key_LBFTND
        layers, batch, _, _, heads, head_dim = sample.shape
        tables = self._tables(parts, index, head_dim)
        if self.buffers is None:
            keys = [
                rotate(part.key_LBFTND.flatten(2, 3), table)
                for part, table in zip(parts, tables, strict=True)
            ]
            values = [part.value_LBFTND.flatten(2, 3) for part in parts]
            key = torch.cat(keys, dim=2)
            return Window(key, torch.cat(values, dim=2), key.shape[2], False)
        total = sum(table.num_tokens for table in tables)
        live = self.plan.num_state + self.plan.num_content + sum(self.plan.ahead)
        rows, columns = self.backbone.token_grid(*self.state.latent_shape[1:])
        shape = (layers, batch, total + live * rows * columns, heads, head_dim)
        key, value, steady = self.buffers.buffers(f"{reads.anchor} {reads.window}", sample, shape)
        start = 0
        for part, table in zip(parts, tables, strict=True):
            stop = start + table.num_tokens
            rotate_into(key[:, :, start:stop], part.key_LBFTND.flatten(2, 3), table)
            value[:, :, start:stop] = part.value_LBFTND.flatten(2, 3)
            start = stop
        return Window(key, value, start, True, steady)

    def frames_read(self, reads: PassReads) -> tuple[list[KV], tuple[float, ...]]:
        """Return the frames a pass may read, oldest first, and their temporal indices."""
        plan = self.plan
        parts, index = list(plan.retained), plan.positions.cached
        if reads.window is not None and reads.window > len(index) and plan.history:
            older = split_oldest(
                plan.history, count_frames(plan.history) - reads.window + len(index)
            )
            behind = (*index, *plan.positions.live.key[plan.num_state :])[0]
            count = count_frames(older.retained)
            index = (*(behind - count + i for i in range(count)), *index)
            parts = [*older.retained, *parts]
        elif reads.window is not None:
            parts = list(split_oldest(parts, len(index) - reads.window).retained)
            index = index[len(index) - count_frames(parts) :]
        if reads.anchor:
            parts = [*plan.anchor, *parts]
            index = (*plan.positions.anchor, *index)
        return parts, index

    def _tables(
        self, parts: Sequence[KV], index: tuple[float, ...], head_dim: int
    ) -> list[RopeTable]:
        """Return the angles of every part, at its frames' indices or at its tokens' own places."""
        grid = self.backbone.token_grid(*self.state.latent_shape[1:])
        relative = self.relative(index)
        tables = []
        for part in parts:
            here, relative = relative[: part.num_frames], relative[part.num_frames :]
            if part.places is None:
                tables.append(rope_table(here, *grid, head_dim, part.key_LBFTND.device))
                continue
            offset, row, column = part.places
            time = offset + offset.new_tensor(here)[None, None, :, None]
            shape = (*time.shape[:3], part.key_LBFTND.shape[3])
            tables.append(places_table(time.expand(shape), row, column, head_dim))
        return tables
