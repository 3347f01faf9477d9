"""Where a stream begins: new, after given frames, or at a saved state; and how long it runs."""

# Shapes: B batch, F frames, C channels, H W height / width of pixels.

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_adastate.data import read_prompts
from lightning_adastate.generation.clock import StreamClock
from lightning_adastate.generation.options import DEFAULT_CHUNKS, Generation
from lightning_adastate.generation.outputs import VideoOptions
from lightning_adastate.generation.timeline import (
    Change,
    check_timeline,
    in_chunks,
    read_timeline,
)
from lightning_adastate.media.reading import read_video
from lightning_adastate.media.video import picture_scale
from lightning_adastate.streaming.pipeline import PixelStreaming
from lightning_adastate.streaming.state_file import load_stream_state
from lightning_adastate.types import StreamState


@dataclass(frozen=True)
class Beginning:
    """What is known of a stream before the model has worked.

    Args:
        prompts: The first prompts, or ``None`` where a saved stream keeps its own.
        saved: The saved stream, or ``None``.
        video_BFCHW: Given frames ``[1, F, 3, H, W]`` in [0, 1], or ``None``.
        num_streams: Streams in lock-step.
        first_chunk: Index of the first chunk that is made.
        num_chunks: Chunks that are made.
        timeline: What happens on the way, by chunk.
    """

    prompts: list[str] | None
    saved: StreamState | None
    video_BFCHW: Tensor | None
    num_streams: int
    first_chunk: int
    num_chunks: int
    timeline: list[Change]


def read_beginning(module: PixelStreaming, generation: Generation) -> Beginning:
    """Read and check what a stream begins with.

    Raises:
        ValueError: If something is missing or does not fit.
    """
    prompts = None if generation.prompts is None else read_prompts(generation.prompts)
    saved = video = None
    first_chunk = 0
    if generation.state_in is not None:
        saved = _read_saved(module, generation.state_in, prompts)
        first_chunk = saved.chunk
    elif prompts is None:
        raise ValueError("give `--generation.prompts`: text, or a file with one prompt per line")
    elif generation.start is not None:
        video = read_start(module, generation.start)
        given = module.codec.latent_frames(video.shape[1])
        first_chunk = len(module.streamer.schedule.chunks_of(given))
    clock = StreamClock(module.streamer.schedule, module.codec, generation.fps, first_chunk)
    num_chunks = generation.num_chunks or DEFAULT_CHUNKS
    if generation.seconds is not None:
        num_chunks = clock.chunks_of(generation.seconds)
    timeline = in_chunks(generation.timeline, clock)
    # What lies beyond the end still comes where the stream is saved to go on.
    end = None if generation.state_out is not None else first_chunk + num_chunks
    check_timeline(timeline, 0 if saved is None else first_chunk, end)
    rows = saved.batch_size if saved is not None else len(prompts or ())
    return Beginning(prompts, saved, video, rows, first_chunk, num_chunks, timeline)


def begin(module: PixelStreaming, generation: Generation, beginning: Beginning) -> StreamState:
    """Return the state to go on from, once its beginning is read.

    Raises:
        ValueError: If prompts do not fit the streams.
    """
    if beginning.saved is not None:
        return _continue(module, generation, beginning, beginning.saved)
    assert beginning.prompts is not None
    video = beginning.video_BFCHW
    if video is not None:
        video = video.expand(beginning.num_streams, -1, -1, -1, -1)
    events, later = read_timeline(beginning.timeline, beginning.num_streams, 1)
    return module.open_stream(
        beginning.prompts,
        seed=0 if generation.seed is None else generation.seed,
        start_video_BFCHW=video,
        timeline=events,
        later_prompts=later,
    )


def _read_saved(module: PixelStreaming, path: str, prompts: list[str] | None) -> StreamState:
    """Load a saved stream that this module can continue."""
    state = load_stream_state(path, fingerprint=module.streamer.fingerprint, device=module.device)
    if prompts is not None and len(prompts) != state.batch_size:
        raise ValueError(
            f"{path!r} holds {state.batch_size} streams, "
            f"got {len(prompts)} prompts; give one for each, or none to keep theirs"
        )
    expected = module.codec.latent_shape(*module.frame_size)
    if state.latent_shape != expected:
        height, width = (side * module.codec.spatial_stride for side in state.latent_shape[1:])
        raise ValueError(
            f"the stream state {path!r} is of frames of {height} x {width} pixels, `model.frame_size` is "
            f"{module.frame_size[0]} x {module.frame_size[1]}; continue it with its own size"
        )
    return state


def _continue(
    module: PixelStreaming, generation: Generation, beginning: Beginning, state: StreamState
) -> StreamState:
    if generation.seed is not None:
        state = replace(state, seed=generation.seed)
    if beginning.prompts is not None:
        timeline = tuple(replace(event, prompt=None) for event in state.timeline)
        texts = module.encode_text(beginning.prompts)[None]
        state = replace(state, texts_PBSD=texts, prompt=0, timeline=timeline)
    events, later = read_timeline(beginning.timeline, state.batch_size, len(state.texts_PBSD))
    added = [module.encode_text(lines)[None] for lines in later]
    state = replace(
        state,
        texts_PBSD=torch.cat([state.texts_PBSD, *added]),
        timeline=(*state.timeline, *events),
    )
    return module.streamer.resume(state)


def read_start(module: PixelStreaming, path: str) -> Tensor:
    """Return the last frames of an image or clip that fill whole chunks, ``[1, F, 3, H, W]``.

    Raises:
        ValueError: If it is unreadable, of another size, or shorter than the first chunk.
    """
    video = read_video(path)
    size, wanted = tuple(video.shape[2:]), tuple(module.frame_size)
    if size != wanted:
        made_larger = size == tuple(size[0] // wanted[0] * side for side in wanted)
        remedy = "make it with `--generation.upscale 1`" if made_larger else "scale it"
        raise ValueError(
            f"{path!r} is {size[0]} x {size[1]} pixels, expected {wanted[0]} x {wanted[1]}; {remedy}, or set `model.frame_size`"
        )
    schedule, codec = module.streamer.schedule, module.codec
    chunks, latent_frames, usable = 0, 0, 0
    while codec.pixel_frames(latent_frames) <= len(video):
        usable = codec.pixel_frames(latent_frames)
        latent_frames += schedule.frames_of(chunks)
        chunks += 1
    if not usable:
        needed = codec.pixel_frames(schedule.frames_of(0))
        raise ValueError(
            f"{path!r} has {len(video)} frames, a stream starts from {needed} or more; give a longer "
            "clip, or set `model.schedule.first_chunk_frames`"
        )
    return video[-usable:].float().div(255.0)[None]


def video_options(module: PixelStreaming, generation: Generation) -> VideoOptions:
    """Return how the video is written."""
    scale = picture_scale(module.frame_size, generation.quality, generation.upscale)
    return VideoOptions(generation.fps, scale, generation.quality, module.chunk_video_frames)
