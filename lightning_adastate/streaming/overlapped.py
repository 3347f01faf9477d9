"""Overlapped streaming: while a chunk is decoded and written, the next one is already denoised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import fields, is_dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.streaming.cuda_graphs import capturing
from lightning_adastate.streaming.pipeline import PixelStreaming, VideoChunk
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import Chunk, StreamState


@torch.no_grad()
def stream_overlapped(
    module: PixelStreaming, state: StreamState, num_chunks: int | None = None
) -> Iterator[VideoChunk]:
    """Yield what `PixelStreaming.stream` yields, to the last bit, one chunk ahead of the reader.

    One thread denoises. The reader's own decodes, and has the time until it asks again for what it does with the
    chunk. No more than one chunk waits. Each state holds the codec's memory after its own chunk. Closing the
    iterator waits for the chunk at work and drops it. What goes wrong is raised where `stream` would raise it.

    On a GPU the thread has a stream of its own; decoding and denoising have their memory at the same time. A
    chunk whose pictures are encoded anew for the next one (``reencode_first``) is decoded before it goes on.

    Args:
        module: What streams.
        state: Where it begins.
        num_chunks: How many chunks; ``None`` never ends.
    """
    if num_chunks is not None and num_chunks < 1:
        return
    memory, done = state.codec, 0
    with _Denoiser(module.streamer, module.device) as denoiser:
        coming = denoiser.begin(state)
        while True:
            chunk = denoiser.collect(coming)
            done += 1
            is_last = done == num_chunks
            is_ahead = not is_last and not _waits_for_pictures(chunk.state)
            if is_ahead:
                coming = denoiser.go_on(chunk.state)
            with capturing:
                video, memory = module.codec.decode(chunk.latents_BFCHW, memory)
                after = module.reencode(replace(chunk.state, codec=memory), video)
            memory = after.codec
            if not is_ahead and not is_last:
                coming = denoiser.begin(after)
            yield VideoChunk(chunk, video, after)
            if is_last:
                return


class _Made(NamedTuple):
    """A chunk, and on a GPU the event behind it."""

    chunk: Chunk
    event: torch.cuda.Event | None


class _Denoiser:
    """Make chunks in one thread, one at a time, under the modes that its maker is under."""

    def __init__(self, streamer: Streamer, device: torch.device) -> None:
        self.streamer = streamer
        self.device = device
        self.buffers = streamer.new_buffers()
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.inference = torch.is_inference_mode_enabled()
        self.autocast = (
            torch.get_autocast_dtype(device.type),
            torch.is_autocast_enabled(device.type),
        )
        self.thread = ThreadPoolExecutor(1, "denoise")

    def begin(self, state: StreamState) -> Future[_Made]:
        """Make the chunk behind a state that comes from the reader's side."""
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
            _keep_for(self.stream, state)
        return self.go_on(state)

    def go_on(self, state: StreamState) -> Future[_Made]:
        """Make the chunk behind a state that was made here. The codec's memory is not held on to."""
        return self.thread.submit(self._make, replace(state, codec={}))

    def collect(self, coming: Future[_Made]) -> Chunk:
        """Wait for a chunk, and make it safe to read on the reader's side."""
        chunk, event = coming.result()
        if event is not None:
            reader = torch.cuda.current_stream(self.device)
            reader.wait_event(event)
            _keep_for(reader, chunk)
        return chunk

    def _make(self, state: StreamState) -> _Made:
        dtype, enabled = self.autocast
        with ExitStack() as modes:
            modes.enter_context(torch.inference_mode(self.inference))
            modes.enter_context(torch.no_grad())
            modes.enter_context(torch.autocast(self.device.type, dtype, enabled))
            if self.stream is not None:
                modes.enter_context(torch.cuda.stream(self.stream))
            chunk = self.streamer.step(state, buffers=self.buffers)
            return _Made(chunk, None if self.stream is None else self.stream.record_event())

    def __enter__(self) -> _Denoiser:
        return self

    def __exit__(self, *error: object) -> None:
        self.thread.shutdown(wait=True, cancel_futures=True)
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)


def _waits_for_pictures(state: StreamState) -> bool:
    """Whether the next chunk reads what is made of this chunk's pictures (`PixelStreaming.reencode`)."""
    return any(event.reencode_first and event.opens(state.chunk) for event in state.timeline)


def _keep_for(stream: torch.cuda.Stream, value: object) -> None:
    """Keep tensors' memory from being given away before ``stream`` is done with it, wherever they are inside."""
    if isinstance(value, Tensor):
        if value.is_cuda:
            value.record_stream(stream)
    elif is_dataclass(value):
        for field in fields(value):
            _keep_for(stream, getattr(value, field.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            _keep_for(stream, part)
    elif isinstance(value, tuple):
        for part in value:
            _keep_for(stream, part)
