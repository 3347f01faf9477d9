"""The one loop over chunks: streaming calls it plain, training calls it with an exit step and gradients."""

# Shapes: L layers, B batch, F frames, S tokens, N heads, D head dim, C channels, H W latent height / width.

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.backbones.base import Backbone
from lightning_adastate.caches.base import Cache, split_oldest
from lightning_adastate.chunk_run import (
    ChunkRun,
    KVGradient,
    Plan,
    Scratch,
    close_chunk,
    place_frames,
    plan_chunk,
)
from lightning_adastate.flow import add_noise, velocity_to_x0
from lightning_adastate.noise import CounterNoise, NoiseSource
from lightning_adastate.schedules.base import Pass, Schedule
from lightning_adastate.types import (
    KV,
    Chunk,
    Event,
    StreamState,
)


class Streamer(nn.Module):
    """Compose backbone, anchor, cache and schedule into a stream of chunks.

    State goes in and comes out; nothing about a stream is kept here.

    Args:
        backbone: Predicts velocity.
        anchor: Decides what stands in front of the window.
        cache: Decides which frames stay, and all temporal indices.
        schedule: Owns chunk size and passes.
        noise: Source of noise; ``None`` is ``CounterNoise``.

    Raises:
        ValueError: If the window cannot hold the anchor and a chunk.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        anchor: Anchor,
        cache: Cache,
        schedule: Schedule,
        noise: NoiseSource | None = None,
    ) -> None:
        super().__init__()
        chunk = max(schedule.frames_of(0), schedule.chunk_frames)
        cache.check(chunk_frames=chunk, anchor_frames=anchor.num_frames)
        self.backbone = backbone
        self.anchor = anchor
        self.cache = cache
        self.schedule = schedule
        self.noise = noise if noise is not None else CounterNoise()

    @property
    def fingerprint(self) -> str:
        """Name the components a saved stream belongs to, in a short hash."""
        backbone = self.backbone
        geometry = (
            backbone.num_layers,
            backbone.num_heads,
            backbone.head_dim,
            backbone.in_channels,
        )
        cache = (type(self.cache).__name__, self.cache.window_frames, self.cache.budget_frames)
        parts = (
            repr(self.anchor),
            cache,
            repr(self.schedule),
            geometry,
            type(self.noise).__name__,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    # -- a stream's life ------------------------------------------------------------------------

    def start(
        self,
        text_BSD: Tensor,
        *,
        latent_shape: tuple[int, int, int],
        seed: int = 0,
        stream_ids: Sequence[int] | None = None,
        first_frame: int = 0,
        timeline: Sequence[Event] = (),
        later_texts: Sequence[Tensor] = (),
    ) -> StreamState:
        """Return the state of a stream that has not produced anything.

        Args:
            text_BSD: Raw text embeddings of the first prompts, ``[B, S, D]``.
            latent_shape: ``(C, H, W)`` of a latent frame.
            seed: Seed of the noise.
            stream_ids: Identity of every row; ``None`` is 0, 1, 2, ...
            first_frame: Index of the first latent frame; only absolute positions notice it.
            timeline: Prompt switches, flushes and cuts.
            later_texts: Embeddings of the prompts 1, 2, ... of the timeline.

        Raises:
            ValueError: If a number does not fit the others.
        """
        rows = text_BSD.shape[0]
        ids = tuple(range(rows)) if stream_ids is None else tuple(stream_ids)
        if len(ids) != rows:
            raise ValueError(f"expected {rows} stream ids, one per prompt, got {len(ids)}")
        if latent_shape[0] != self.backbone.in_channels:
            raise ValueError(
                f"expected latents of {self.backbone.in_channels} channels, got {latent_shape[0]}"
            )
        self.backbone.token_grid(*latent_shape[1:])
        texts = torch.stack([text_BSD, *later_texts])
        wanted = [event.prompt for event in timeline if event.prompt is not None]
        if wanted and max(wanted) >= len(texts):
            raise ValueError(f"the timeline names prompt {max(wanted)}, got {len(texts)} prompts")
        state = StreamState(
            chunk=0,
            first_frame=first_frame,
            latent_shape=latent_shape,
            blocks=(),
            anchor=self.anchor.empty(),
            texts_PBSD=texts,
            prompt=0,
            seed=seed,
            stream_ids=ids,
            timeline=tuple(timeline),
        )
        return self.resume(state)

    def resume(self, state: StreamState) -> StreamState:
        """Return ``state`` with its derived parts made anew: the text keys and values."""
        return replace(state, text_kv=self.backbone.text_kv(state.texts_PBSD[state.prompt]))

    def prefill(
        self, state: StreamState, latents_BFCHW: Tensor, *, noise: NoiseSource | None = None
    ) -> StreamState:
        """Return the state after given clean frames, committed chunk by chunk as if generated.

        Raises:
            ValueError: If they are not a whole number of chunks.
        """
        start = 0
        total = latents_BFCHW.shape[1]
        while start < total:
            size = self.schedule.frames_of(state.chunk)
            if start + size > total:
                raise ValueError(
                    f"given frames must fill whole chunks: {total - start} are left for a chunk of "
                    f"{size}"
                )
            given = latents_BFCHW[:, start : start + size]
            state = self.step(state, noise=noise, given_BFCHW=given).state
            start += size
        return state

    @torch.no_grad()
    def stream(
        self,
        state: StreamState,
        num_chunks: int | None = None,
        *,
        noise: NoiseSource | None = None,
    ) -> Iterator[Chunk]:
        """Yield chunks, endlessly if ``num_chunks`` is ``None``. Memory does not grow."""
        scratch = Scratch()
        done = 0
        while num_chunks is None or done < num_chunks:
            with torch.no_grad():
                chunk = self.step(state, noise=noise, scratch=scratch)
            yield chunk
            state = chunk.state
            done += 1

    def rollout(
        self,
        state: StreamState,
        num_chunks: int,
        *,
        noise: NoiseSource | None = None,
        exit_step: int | None = None,
        kv_gradient: KVGradient = "detach",
    ) -> tuple[Tensor, StreamState]:
        """Return the latents of ``num_chunks`` chunks ``[B, F, C, H, W]`` and the state after them.

        With gradients enabled they carry a graph from each chunk's exit pass.
        """
        parts = []
        for _ in range(num_chunks):
            chunk = self.step(state, noise=noise, exit_step=exit_step, kv_gradient=kv_gradient)
            parts.append(chunk.latents_BFCHW)
            state = chunk.state
        return torch.cat(parts, dim=1), state

    # -- one chunk ------------------------------------------------------------------------------

    def step(
        self,
        state: StreamState,
        *,
        noise: NoiseSource | None = None,
        given_BFCHW: Tensor | None = None,
        exit_step: int | None = None,
        kv_gradient: KVGradient = "detach",
        scratch: Scratch | None = None,
    ) -> Chunk:
        """Make one chunk: make room, denoise, commit.

        Args:
            state: The stream so far. Not changed.
            noise: Replaces the streamer's own source.
            given_BFCHW: Clean content of this chunk; only what is hidden is then denoised.
            exit_step: Leave after this denoise pass, whose x0 is the chunk (training). ``None`` is
                the last. Only this pass gets a graph.
            kv_gradient: What the cache passes back, where gradients are enabled.
            scratch: Memory to reuse; ignored where gradients are enabled.
        """
        event = next((e for e in state.timeline if e.chunk == state.chunk), None)
        if event is not None:
            state = self._open(state, event)
        plan = self._plan(state, event)
        run = self._run(state, plan, noise, scratch)
        x0, free_F = run.first_latents(given_BFCHW)
        passes = self.schedule.passes(state.chunk)
        denoise = [how for how in passes if how.kind == "denoise"]
        if exit_step is not None:
            denoise = denoise[: exit_step + 1]
        if given_BFCHW is not None and not plan.num_state:
            denoise = []

        live, exit_kv = x0, None
        for index, how in enumerate(denoise):
            last = index == len(denoise) - 1
            with torch.set_grad_enabled(run.grad and last):
                keep = last and (how.commit or (run.grad and kv_gradient == "straight_through"))
                out = run.forward(
                    live,
                    (free_F * how.timestep)[None],
                    return_kv=keep,
                    reads_anchor=how.reads_anchor,
                    reads_window=how.reads_window,
                )
                velocity = out.velocity_BFCHW.to(live.dtype)
                x0 = velocity_to_x0(velocity, live, (free_F * how.sigma)[None])
                exit_kv = out.kv
                if last or how.next_sigma is None:
                    break
                sigma_BF = (free_F * how.next_sigma)[None]
                fresh = x0 + velocity if how.sampler == "euler" else run.draw_live(index + 1)
                live = add_noise(x0, fresh, sigma_BF)

        kv = exit_kv
        for how in passes:
            if how.kind == "commit":
                kv = self._commit(run, how, x0, exit_kv, kv_gradient)
        assert kv is not None, "a schedule must commit one pass"
        return close_chunk(self.anchor, self.cache, state, plan, x0, kv, kv_gradient)

    def teach(
        self,
        state: StreamState,
        clean_BFCHW: Tensor,
        *,
        timestep_B: Tensor,
        sigma_B: Tensor,
        state_BFCHW: Tensor | None = None,
        context_sigma_B: Tensor | None = None,
        noise: NoiseSource | None = None,
    ) -> tuple[Tensor, Tensor, Chunk]:
        """Make one chunk from known frames: one pass on them noised, then the clean pass.

        This is teacher forcing through the streaming window: eviction, anchor and positions are
        those of streaming, and gradients reach the cache (``kv_gradient`` "all").

        Args:
            state: The stream so far.
            clean_BFCHW: The chunk's clean content ``[B, F, C, H, W]``.
            timestep_B: Timestep of each row's noised pass.
            sigma_B: Its noise level.
            state_BFCHW: Clean frames that play the hidden state; needed where ``num_live_frames`` is
                not zero.
            context_sigma_B: Noise put on the frames before the clean pass, which stays at timestep 0.
            noise: Replaces the streamer's own source.

        Returns:
            Predicted and true velocity of the live frames, state frames first, and the chunk.

        Raises:
            ValueError: If the state frames do not fit the anchor.
        """
        plan = self._plan(state, None)
        run = self._run(state, plan, noise)
        given = 0 if state_BFCHW is None else state_BFCHW.shape[1]
        if given != plan.num_state:
            raise ValueError(f"expected {plan.num_state} state frames, got {given}")
        live = clean_BFCHW if state_BFCHW is None else torch.cat([state_BFCHW, clean_BFCHW], 1)
        fresh = run.draw_live(0)
        timestep_BF = timestep_B[:, None].expand(-1, live.shape[1])
        out = run.forward(add_noise(live, fresh, sigma_B), timestep_BF, return_kv=False)
        context = live
        if context_sigma_B is not None:
            context = add_noise(live, run.draw_live(1), context_sigma_B)
        kv = run.forward(context, torch.zeros_like(timestep_BF), return_kv=True).kv
        assert kv is not None
        done = close_chunk(self.anchor, self.cache, state, plan, live, kv, "all")
        return out.velocity_BFCHW, fresh - live, done

    def live_state_frames(self, state: StreamState) -> int:
        """Return how many hidden frames the next chunk denoises beside its content."""
        return self._plan(state, None).num_state

    def _run(
        self,
        state: StreamState,
        plan: Plan,
        noise: NoiseSource | None = None,
        scratch: Scratch | None = None,
    ) -> ChunkRun:
        source = self.noise if noise is None else noise
        return ChunkRun(self.backbone, state, plan, source, scratch)

    def _open(self, state: StreamState, event: Event) -> StreamState:
        """Apply an event: drop frames, tell the anchor, switch the prompt, re-encode."""
        filling = self.anchor.num_shown(state.anchor) < self.anchor.num_frames
        if event.keep_frames is not None:
            excess = len(state.cached_births) - event.keep_frames
            kept, dropped = split_oldest(state.blocks, excess)
            contents = state.anchor
            if filling and dropped is not None:
                contents = self.anchor.absorb(contents, dropped, kept)
            state = replace(state, blocks=kept, anchor=contents)
        state = replace(state, anchor=self.anchor.on_event(state.anchor, event))
        if event.prompt is not None:
            state = self.resume(replace(state, prompt=event.prompt))
        if event.recache_frames and state.recent_BFCHW is not None:
            count = event.recache_frames
            if filling and not event.reset_anchor:  # the frames it is to keep are still cached
                count = max(count, len(state.cached_births))
            state = self._recache(state, state.recent_BFCHW[:, -count:])
        return state

    @torch.no_grad()
    def _recache(self, state: StreamState, latents_BFCHW: Tensor) -> StreamState:
        """Re-encode the newest clean frames in one pass behind the anchor; they become the cache."""
        count = latents_BFCHW.shape[1]
        births = tuple(range(state.first_frame - count, state.first_frame))
        plan = place_frames(self.anchor, self.cache, state.anchor, (), births)
        run = self._run(state, plan)
        out = run.forward(latents_BFCHW, latents_BFCHW.new_zeros(1, count), return_kv=True)
        assert out.kv is not None
        return replace(state, blocks=(replace(out.kv, births=births),))

    def _plan(self, state: StreamState, event: Event | None) -> Plan:
        """Lay the next chunk out."""
        frames = self.schedule.frames_of(state.chunk)
        return plan_chunk(self.anchor, self.cache, state, frames, event)

    def _commit(
        self,
        run: ChunkRun,
        how: Pass,
        x0_BFCHW: Tensor,
        exit_kv: KV | None,
        kv_gradient: KVGradient,
    ) -> KV:
        """Run the clean pass and return its keys and values under the chosen gradient rule."""
        through = run.grad and kv_gradient in ("state", "all")
        with torch.set_grad_enabled(through):
            clean = x0_BFCHW if through else x0_BFCHW.detach()
            if how.input_sigma:
                step = len(self.schedule.passes(run.state.chunk))
                clean = add_noise(clean, run.draw_live(step), how.input_sigma)
            out = run.forward(
                clean,
                clean.new_full((1, clean.shape[1]), how.timestep),
                return_kv=True,
                reads_anchor=how.reads_anchor,
                reads_window=how.reads_window,
            )
        kv = out.kv
        assert kv is not None
        if exit_kv is None:
            return kv
        return replace(
            kv,
            key_LBFTND=kv.key_LBFTND + (exit_kv.key_LBFTND - exit_kv.key_LBFTND.detach()),
            value_LBFTND=kv.value_LBFTND + (exit_kv.value_LBFTND - exit_kv.value_LBFTND.detach()),
        )


__all__ = ["KVGradient", "Scratch", "Streamer"]
