"""A stream that is rolled on, and the frames of it that are to be scored."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor

from lightning_adastate.codecs import Codec
from lightning_adastate.codecs.base import CodecState
from lightning_adastate.rollouts.base import (
    ChunkRecompute,
    FirstChunk,
    Request,
    Rollout,
    denoise_count,
)
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import Chunk, StreamState


class RolloutRecorder:
    """Step a stream on, and collect what is scored.

    Args:
        request: What is asked for.
        state: The stream to go on from; ``None`` begins one.
    """

    def __init__(self, request: Request, state: StreamState | None = None) -> None:
        self.request = request
        self.streamer = request.streamer
        with torch.no_grad():
            self.state = request.open() if state is None else self.streamer.resume(state)
        self.given_frames = 0
        self.exit_step: int | None = None
        self._scored: list[Tensor] = []
        self._clean: list[Tensor] = []
        self._recomputes: list[ChunkRecompute] = []

    @property
    def num_scored(self) -> int:
        """Count the frames to score so far."""
        return sum(part.shape[1] for part in self._scored)

    def clean(self) -> Tensor:
        """Return the frames as the stream committed them, without a graph."""
        return torch.cat(self._clean, dim=1)

    def put(self, latents_BFCHW: Tensor) -> None:
        """Put frames before the next ones that are not this recorder's own."""
        self._scored.append(latents_BFCHW)
        self._clean.append(latents_BFCHW)

    @torch.no_grad()
    def prefill(self, latents_BFCHW: Tensor | None) -> None:
        """Commit given first frames; their keys and values are constants."""
        if latents_BFCHW is None:
            return
        self.put(latents_BFCHW)
        self.given_frames = latents_BFCHW.shape[1]
        self.state = self.streamer.prefill(self.state, latents_BFCHW)

    @torch.no_grad()
    def run_on(self, num_chunks: int, *, score: bool = True) -> None:
        """Make complete chunks, as streaming does, without a graph."""
        for _ in range(num_chunks):
            chunk = self.streamer.step(self.state)
            self._advance(chunk)
            if score:
                self._scored.append(chunk.latents_BFCHW)

    def learn(self, num_chunks: int) -> None:
        """Make chunks that are left at the pass that is asked for, with a graph where that is enabled.

        The pass is asked for once for all chunks in a row with as many denoise passes.
        """
        if self.request.exit_of is None:
            self.run_on(num_chunks)
            return
        schedule, given = self.streamer.schedule, self.state.given_chunks
        indices = range(self.state.chunk, self.state.chunk + num_chunks)
        count = partial(denoise_count, schedule, given_chunks=given)
        for _, alike in itertools.groupby(indices, count):
            first, *rest = alike
            exit_step = self.request.exit_of(schedule, first, given)
            for _ in (first, *rest):
                self.record_chunk(exit_step)

    def record_chunk(self, exit_step: int, *, learns: bool = True) -> None:
        """Make one chunk that is left at ``exit_step``; what is ahead there is scored with it."""
        rule = self.request.kv_gradient
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            if torch.is_grad_enabled():
                self.state = _with_text_graph(self.streamer, self.state)
            if self.request.keep_recomputes and learns:
                recompute = partial(_recompute, self.streamer, self.state, exit_step)
                self._recomputes.append(ChunkRecompute(self.num_scored, recompute))
            chunk = self.streamer.step(self.state, exit_step=exit_step, kv_gradient=rule)
        self._advance(chunk)
        self._scored.append(_at_exit(chunk))
        self.exit_step = exit_step

    def rollout(
        self,
        *,
        start: int = 0,
        first_chunk: FirstChunk = "learned",
        persistent_state: StreamState | None = None,
    ) -> Rollout:
        """Cut the video out.

        Args:
            start: Its first frame; it has as many as were asked for.
            first_chunk: What becomes of its first chunk, if something was before it.
            persistent_state: What the next rollout goes on from.
        """
        request = self.request
        video = torch.cat(self._scored, dim=1)[:, start : start + request.num_frames]
        given, unscored = max(0, self.given_frames - start), 0
        if start and first_chunk != "learned":
            old = self.streamer.schedule.chunk_frames
            clean = self.clean()
            image, _ = image_latent(request.codec, clean[:, : start + 1], request.codec.empty())
            video = torch.cat([image, clean[:, start + 1 : start + old], video[:, old:]], dim=1)
            given, unscored = (max(given, old), 0) if first_chunk == "given" else (given, old)
        recomputes = [each._replace(first=each.first - start) for each in self._recomputes]
        text = self.state.texts_PBSD[self.state.prompt]
        return Rollout(
            video, text, self.exit_step, given, unscored, tuple(recomputes), persistent_state
        )

    def _advance(self, chunk: Chunk) -> None:
        size = chunk.latents_BFCHW.shape[1]
        assert chunk.state.recent_BFCHW is not None
        self._clean.append(chunk.state.recent_BFCHW[:, -size:])
        self.state = chunk.state


@torch.no_grad()
def image_latent(
    codec: Codec, latents_BFCHW: Tensor, memory: CodecState
) -> tuple[Tensor, CodecState]:
    """Return the image latent ``[B, 1, C, H, W]`` of the last picture of some frames.

    Args:
        codec: Decodes and encodes.
        latents_BFCHW: The frames, without a graph.
        memory: The decoder's memory before them.

    Returns:
        The latent, and the memory after the frames.
    """
    pixels, memory = decode(codec, latents_BFCHW, memory)
    return codec.encode(pixels[:, -1:].float()).to(latents_BFCHW), memory


@torch.no_grad()
def decode(codec: Codec, latents_BFCHW: Tensor, memory: CodecState) -> tuple[Tensor, CodecState]:
    """Decode frame by frame, so that a long video takes no more memory; return the last one's pixels."""
    for frame in latents_BFCHW.detach().split(1, dim=1):
        pixels, memory = codec.decode(frame, memory)
    return pixels, memory


def _with_text_graph(streamer: Streamer, state: StreamState) -> StreamState:
    """Make the text keys and values part of the graph, once for all chunks."""
    text = state.text_kv
    if text is not None and any(key.requires_grad for key in text.key_LBSND):
        return state
    return streamer.resume(state)


def _recompute(streamer: Streamer, before: StreamState, exit_step: int) -> Tensor:
    """Repeat a chunk that passes nothing on."""
    return _at_exit(streamer.step(streamer.resume(before), exit_step=exit_step))


def _at_exit(chunk: Chunk) -> Tensor:
    """Return all frames of the exit pass: the chunk's own, and those ahead."""
    if chunk.ahead_BFCHW is None:
        return chunk.latents_BFCHW
    return torch.cat([chunk.latents_BFCHW, chunk.ahead_BFCHW], dim=1)
