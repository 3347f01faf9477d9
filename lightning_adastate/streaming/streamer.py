"""The one loop over chunks: streaming calls it plain, training calls it with an exit step and gradients."""

# Shapes: L layers, B batch, F frames, S tokens, N heads, D head dim, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.backbones.base import Backbone
from lightning_adastate.caches.base import Cache, split_oldest
from lightning_adastate.flow import add_noise
from lightning_adastate.noise import CounterNoise, NoiseSource
from lightning_adastate.schedules.base import CLEAN_PASS, AfterExit, Pass, Schedule, denoise_passes
from lightning_adastate.streaming.buffers import StreamBuffers
from lightning_adastate.streaming.commit import KVGradient, close_chunk
from lightning_adastate.streaming.context import ChunkContext
from lightning_adastate.streaming.denoise import Taught, denoise
from lightning_adastate.streaming.fingerprint import (
    components_mark,
    describe_parts,
    join_fingerprint,
)
from lightning_adastate.streaming.noise_ahead import NoiseAhead
from lightning_adastate.streaming.observer import StepObserver
from lightning_adastate.streaming.plan import Plan, place_frames, plan_chunk
from lightning_adastate.types import BackboneOutput, Chunk, Event, StreamState
from lightning_adastate.weights.fingerprint import weights_fingerprint


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
        ahead = schedule.num_ahead * schedule.chunk_frames
        if ahead and anchor.num_state_frames:
            raise ValueError(
                f"{type(anchor).__name__} denoises a hidden state in all passes of its chunk, but "
                f"{type(schedule).__name__} spreads a chunk's passes over several chunks; use another "
                "anchor or schedule"
            )
        chunk = max(schedule.frames_of(0), schedule.chunk_frames) + ahead
        cache.check(chunk_frames=chunk, anchor_frames=anchor.num_frames)
        self.backbone = backbone
        self.anchor = anchor
        self.cache = cache
        self.schedule = schedule
        self.noise = noise if noise is not None else CounterNoise()
        self.draws_ahead = False

    def new_buffers(self) -> StreamBuffers:
        """Return memory for one stream to reuse from chunk to chunk; with ``draws_ahead`` its noise comes early."""
        if not self.draws_ahead:
            return StreamBuffers()
        on_card = next(self.parameters()).is_cuda
        return StreamBuffers(ahead=NoiseAhead(pinned=on_card))

    @property
    def descriptions(self) -> dict[str, str]:
        """Return what decides the stream beside its weights, part by part; a part may have no stable description."""
        return describe_parts(self.anchor, self.cache, self.schedule, self.noise, self.backbone)

    @property
    def components_fingerprint(self) -> str:
        """Return a short hash of the components: their classes and what they were built with.

        Raises:
            ValueError: If an argument of a component has no stable description.
        """
        return components_mark(self.descriptions, self.backbone)

    @property
    def fingerprint(self) -> str:
        """Return what a saved stream belongs to: marks of all components, of the weights and of each component.

        It reads all weights; take it when a stream is saved or loaded, not per chunk.

        Raises:
            ValueError: If an argument of a component has no stable description.
        """
        weights = weights_fingerprint(self)
        return join_fingerprint(self.components_fingerprint, weights, self.descriptions)

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
        buffers = self.new_buffers()
        done = 0
        while num_chunks is None or done < num_chunks:
            with torch.no_grad():
                chunk = self.step(state, noise=noise, buffers=buffers)
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
        taught: Taught | None = None,
        exit_step: int | None = None,
        after_exit: AfterExit | None = None,
        kv_gradient: KVGradient = "detach",
        buffers: StreamBuffers | None = None,
        observer: StepObserver | None = None,
    ) -> Chunk:
        """Make one chunk: make room, denoise, commit.

        Args:
            state: The stream so far. Not changed.
            noise: Replaces the streamer's own source.
            given_BFCHW: Clean content of this chunk; only what is hidden is then denoised.
            taught: True content of this chunk, in teacher forcing: the chunk's latents are then what the
                exit pass took it for, and the true content is committed.
            exit_step: The denoise pass whose x0 is the chunk (training), and the only one with a
                graph. ``None`` is the last.
            after_exit: Whether that x0 is committed, or later passes run first so that what is cached
                is what streaming caches. ``None`` is the schedule's own rule.
            kv_gradient: What the cache passes back, where gradients are enabled.
            buffers: Memory to reuse; ignored where gradients are enabled.
            observer: Told of the layout and of every pass.

        Raises:
            ValueError: If ``kv_gradient`` cannot go with what follows the exit.
        """
        state, event = self.open_chunk(state, observer=observer)
        rule = self.schedule.after_exit if after_exit is None else after_exit
        if exit_step is not None and rule == "finish" and kv_gradient != "detach":
            raise ValueError(
                f"a chunk that is finished after its exit passes no gradient on: `kv_gradient` must be "
                f"'detach', got {kv_gradient!r}"
            )
        passes = self.schedule.passes_of(state)
        steps = denoise_passes(passes)
        plan = self.plan(state, event, working_ahead=given_BFCHW is None)
        if given_BFCHW is not None and not plan.num_state:
            steps = []
        context = self._context(state, plan, noise, buffers, observer)
        through = context.grad and kv_gradient == "straight_through"
        denoised = denoise(
            context,
            steps,
            given_BFCHW,
            taught_BFCHW=None if taught is None else taught.content_BFCHW,
            exit_step=exit_step,
            after_exit=rule,
            keep_exit_kv=through,
        )
        cached_output = denoised.output
        commits = [one for one in passes if one.kind == "commit"]
        if cached_output is None and not commits:
            commits = [CLEAN_PASS]
        for commit_pass in commits:
            past = denoised.final_BFCHW
            if taught is not None:
                past = taught.past(past, context, len(passes) + 1)
            cached_output = self._commit(context, commit_pass, past, cached_output, kv_gradient)
        assert cached_output is not None
        grid = self.backbone.token_grid(*state.latent_shape[1:])
        clean = denoised.final_BFCHW
        after = close_chunk(
            self.anchor, self.cache, state, plan, clean, cached_output, kv_gradient, grid
        )
        hidden = denoised.exit_BFCHW[:, : plan.num_state] if plan.num_state else None
        return Chunk(
            state.chunk,
            state.first_frame,
            denoised.exit_BFCHW[:, plan.num_state :],
            hidden,
            replace(
                after,
                pending_BFCHW=denoised.pending_BFCHW,
                given_chunks=state.given_chunks + (given_BFCHW is not None),
            ),
            denoised.ahead_BFCHW,
        )

    def teacher_forcing_step(
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
        plan = self.plan(state)
        context = self._context(state, plan, noise)
        given = 0 if state_BFCHW is None else state_BFCHW.shape[1]
        if given != plan.num_state:
            raise ValueError(f"expected {plan.num_state} state frames, got {given}")
        live = clean_BFCHW if state_BFCHW is None else torch.cat([state_BFCHW, clean_BFCHW], 1)
        fresh = context.draw_live(0)
        timestep_BF = timestep_B[:, None].expand(-1, live.shape[1])
        out = context.forward(add_noise(live, fresh, sigma_B), timestep_BF, return_kv=False)
        past = live
        if context_sigma_B is not None:
            past = add_noise(live, context.draw_live(1), context_sigma_B)
        zero_BF = torch.zeros_like(timestep_BF)
        cached_output = context.forward(past, zero_BF, return_kv=True, kv_only=True)
        grid = self.backbone.token_grid(*state.latent_shape[1:])
        after = close_chunk(self.anchor, self.cache, state, plan, live, cached_output, "all", grid)
        content = live[:, plan.num_state :]
        chunk = Chunk(state.chunk, state.first_frame, content, state_BFCHW, after)
        return out.velocity_BFCHW, fresh - live, chunk

    def open_chunk(
        self, state: StreamState, *, observer: StepObserver | None = None
    ) -> tuple[StreamState, Event | None]:
        """Return the state after the events that open the next chunk, and the one that says where it stands.

        Args:
            state: The stream so far. Not changed.
            observer: Told of what is encoded anew.
        """
        event = None
        for opening in (each for each in state.timeline if each.opens(state.chunk)):
            state = self._open(state, opening, observer)
            event = opening if event is None or event.live_start is None else event
        return state, event

    def plan(
        self, state: StreamState, event: Event | None = None, *, working_ahead: bool = False
    ) -> Plan:
        """Lay the next chunk out: what stays, what the anchor shows, and where everything stands.

        Args:
            state: The stream after ``open_chunk``.
            event: What ``open_chunk`` gave with it.
            working_ahead: Whether the chunks ahead are denoised with it.
        """
        size = self.schedule.frames_of
        count = self.schedule.num_ahead if working_ahead else 0
        ahead = tuple(size(state.chunk + 1 + place) for place in range(count))
        return plan_chunk(self.anchor, self.cache, state, size(state.chunk), event, ahead)

    def live_state_frames(self, state: StreamState) -> int:
        """Return how many hidden frames the next chunk denoises beside its content."""
        return self.plan(state).num_state

    def _context(
        self,
        state: StreamState,
        plan: Plan,
        noise: NoiseSource | None = None,
        buffers: StreamBuffers | None = None,
        observer: StepObserver | None = None,
        *,
        reencodes: bool = False,
    ) -> ChunkContext:
        source = self.noise if noise is None else noise
        query = self.anchor.needs_query
        context = ChunkContext(
            self.backbone, state, plan, source, buffers, query=query, observer=observer
        )
        if observer is not None:
            observer.on_context(context, reencodes=reencodes)
        return context

    def _open(
        self, state: StreamState, event: Event, observer: StepObserver | None
    ) -> StreamState:
        """Apply an event: drop frames, tell the anchor, switch the prompt, re-encode."""
        filling = self.anchor.num_shown(state.anchor) < self.anchor.num_frames
        if event.keep_frames is not None:
            excess = len(state.cached_frame_indices) - event.keep_frames
            retained, dropped = split_oldest(state.blocks, excess)
            contents = state.anchor
            if filling and dropped is not None:
                contents = self.anchor.absorb(contents, dropped, retained)
            state = replace(state, blocks=retained, anchor=contents, history=())
        state = replace(state, anchor=self.anchor.on_event(state.anchor, event))
        if event.prompt is not None:
            state = self.resume(replace(state, prompt=event.prompt))
        if event.recache_frames and state.recent_BFCHW is not None:
            count = event.recache_frames
            if filling and not event.reset_anchor:  # the frames it is to keep are still cached
                count = max(count, len(state.cached_frame_indices))
            state = self._recache(state, state.recent_BFCHW[:, -count:], observer)
        return state

    @torch.no_grad()
    def _recache(
        self, state: StreamState, latents_BFCHW: Tensor, observer: StepObserver | None
    ) -> StreamState:
        """Re-encode the newest clean frames in one pass behind the anchor; they become the cache."""
        count = latents_BFCHW.shape[1]
        frame_indices = tuple(range(state.first_frame - count, state.first_frame))
        plan = place_frames(self.anchor, self.cache, state.anchor, (), frame_indices)
        context = self._context(state, plan, observer=observer, reencodes=True)
        out = context.forward(latents_BFCHW, (0.0,) * count, return_kv=True, kv_only=True)
        assert out.kv is not None
        return replace(state, blocks=(replace(out.kv, frame_indices=frame_indices),))

    def _commit(
        self,
        context: ChunkContext,
        commit_pass: Pass,
        x0_BFCHW: Tensor,
        exit_pass: BackboneOutput | None,
        kv_gradient: KVGradient,
    ) -> BackboneOutput:
        """Run the clean pass and return what it gave, under the chosen gradient rule."""
        through = context.grad and kv_gradient in ("state", "all")
        with torch.set_grad_enabled(through):
            clean = x0_BFCHW if through else x0_BFCHW.detach()
            if commit_pass.input_sigma:
                step = len(self.schedule.passes_of(context.state))
                clean = add_noise(clean, context.draw_live(step), commit_pass.input_sigma)
            out = context.forward(
                clean,
                (commit_pass.timestep,) * clean.shape[1],
                return_kv=True,
                reads_anchor=commit_pass.reads_anchor,
                reads_window=commit_pass.reads_window,
                kv_only=True,
            )
        if exit_pass is None:
            return out
        kv, exit_kv = out.kv, exit_pass.kv
        assert kv is not None
        assert exit_kv is not None
        chained = replace(
            kv,
            key_LBFTND=kv.key_LBFTND + (exit_kv.key_LBFTND - exit_kv.key_LBFTND.detach()),
            value_LBFTND=kv.value_LBFTND + (exit_kv.value_LBFTND - exit_kv.value_LBFTND.detach()),
        )
        return out._replace(kv=chained)


__all__ = ["KVGradient", "StreamBuffers", "Streamer"]
