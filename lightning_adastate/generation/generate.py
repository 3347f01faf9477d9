"""generate: stream video from prompts, an image, a clip or a saved state; for as long as you like."""

# Shapes: B batch, F frames, C channels, H W height / width of pixels.

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from lightning_adastate.data import read_prompts
from lightning_adastate.generation.interrupt import INTERRUPTED, StopRequest
from lightning_adastate.generation.outputs import StreamOutputs, VideoOptions
from lightning_adastate.generation.timeline import Change, read_timeline
from lightning_adastate.media.reading import read_video
from lightning_adastate.media.video import Quality, check_picture, watchable_scale
from lightning_adastate.streaming.overlapped import stream_overlapped
from lightning_adastate.streaming.pipeline import PixelStreaming, VideoChunk, evaluating
from lightning_adastate.streaming.state_file import load_stream_state
from lightning_adastate.types import StreamState
from lightning_adastate.weights import load_anchor, load_into


class Generation:
    """What to generate, and where to put it.

    Args:
        prompts: A prompt, or a text file with one per line. Several prompts are several streams in
            lock-step, and every file name gets the stream's number (name-00.mp4). With ``state_in``
            they replace the prompts from here on; ``None`` keeps them.
        num_chunks: How many chunks; any positive number.
        seed: Seed of the noise. ``None`` is 0, or the state's own with ``state_in``.
        weights: Backbone weights instead of the configuration's: a .safetensors file, a training
            checkpoint, or a name shipped with the package.
        output: The mp4 to write, chunk by chunk; it can be watched while it grows. ``None``: no video.
        latents: Also write the latents ``[1, F, C, H, W]`` to this .safetensors file.
        state_in: Continue the stream saved here.
        state_out: Save the stream after the last chunk here, to go on later.
        start: Image or clip that the streams continue; its last frames that fill whole chunks count.
        upscale: Repeat every pixel so many times; ``None`` is enough for a person to see it.
        fps: Frames per second of the video.
        quality: ``preview`` plays everywhere, ``lossless`` is bit-exact RGB.
        decode: ``in_turn`` denoises a chunk when the one before it is written. ``overlapped`` denoises it in the
            meantime, in a thread: the same files, for the memory of both at once.
        timeline: Prompt switches, flushes, cuts and restarts, a list of ``Change``. With ``state_in`` they
            come on top of what the saved stream has still to come.

    Raises:
        ValueError: If a number is not positive, a name has the wrong ending or is given twice, or
            nothing is written.
    """

    def __init__(
        self,
        prompts: str | None = None,
        *,
        num_chunks: int = 7,
        seed: int | None = None,
        weights: str | None = None,
        output: str | None = "outputs/generated.mp4",
        latents: str | None = None,
        state_in: str | None = None,
        state_out: str | None = None,
        start: str | None = None,
        upscale: int | None = None,
        fps: int = 16,
        quality: Quality = "preview",
        decode: Literal["in_turn", "overlapped"] = "in_turn",
        timeline: list[Change] | None = None,
    ) -> None:
        for name, number in (("num_chunks", num_chunks), ("upscale", upscale), ("fps", fps)):
            if number is not None and number < 1:
                raise ValueError(f"`generation.{name}` must be 1 or more, got {number}")
        for name, path, ending in (
            ("output", output, ".mp4"),
            ("latents", latents, ".safetensors"),
            ("state_out", state_out, ".safetensors"),
        ):
            if path is not None and Path(path).suffix != ending:
                raise ValueError(f"`generation.{name}` must end in {ending}, got {path!r}")
        if output is None and latents is None and state_out is None:
            raise ValueError(
                "there is nothing to write: give `generation.output`, `.latents` or `.state_out`"
            )
        named = [Path(path).resolve() for path in (output, latents, state_out, start) if path]
        if len(set(named)) < len(named):
            raise ValueError(
                "`generation.output`, `.latents`, `.state_out` and `.start` must be different files"
            )
        if start is not None and state_in is not None:
            raise ValueError("give `generation.start` or `generation.state_in`, not both")
        self.prompts = prompts
        self.num_chunks = num_chunks
        self.seed = seed
        self.weights = weights
        self.output = output
        self.latents = latents
        self.state_in = state_in
        self.state_out = state_out
        self.start = start
        self.upscale = upscale
        self.fps = fps
        self.quality: Quality = quality
        self.decode = decode
        self.timeline = [] if timeline is None else timeline


def generate(module: PixelStreaming, generation: Generation) -> int:
    """Stream, write, and return the exit code: 0, or 130 if the user stopped it early.

    Stopping (Ctrl-C, SIGTERM) finishes the chunk at work; everything written so far is then valid.

    Raises:
        ValueError: If prompts, start, state, names or weights do not fit, or a chunk is not finite.
    """
    if generation.weights is not None:
        load_into(module.streamer.backbone, generation.weights)
        load_anchor(module.streamer.anchor, generation.weights)
    with evaluating(module.streamer):
        return _generate(module, generation)


def _generate(module: PixelStreaming, generation: Generation) -> int:
    state = open_stream(module, generation)
    # Taken first: what could not be saved is refused before it is streamed.
    fingerprint = "" if generation.state_out is None else module.streamer.fingerprint
    outputs = StreamOutputs(
        video=generation.output,
        latents=generation.latents,
        state=generation.state_out,
        num_streams=state.batch_size,
        video_options=video_options(module, generation),
    )
    with outputs, StopRequest() as stop, closing(_stream(module, state, generation)) as pieces:
        for piece in _with_progress(pieces, generation):
            # The chunk is waited for here anyway: it goes to the encoder.
            if not bool(piece.chunk.latents_BFCHW.isfinite().all()):
                raise ValueError(_close_before(piece.chunk.index, outputs, fingerprint))
            outputs.append(piece)
            if stop.asked:
                break
        outputs.finish(fingerprint)
    print("written to " + ", ".join(map(str, outputs.paths)))
    return INTERRUPTED if stop.asked else 0


def _close_before(chunk: int, outputs: StreamOutputs, fingerprint: str) -> str:
    """Make whole what was written before a chunk that is not finite; return what to say."""
    kept = "nothing was written"
    if outputs.state is not None:
        kept = "what was written before it is whole"
        if not outputs.state.is_finite:  # its keys are what the chunk was made from
            outputs.state = None
        outputs.finish(fingerprint)
    return (
        f"the latents of chunk {chunk} are not finite; {kept}; look at the weights, or set `trainer.precision` to "
        "32-true"
    )


def _stream(
    module: PixelStreaming, state: StreamState, generation: Generation
) -> Generator[VideoChunk, None, None]:
    """Yield the chunks, each when it is wanted; closing it stops the work on the next."""
    if generation.decode == "overlapped":
        yield from stream_overlapped(module, state, generation.num_chunks)
    else:
        yield from module.stream(state, generation.num_chunks)


# -- what to stream ---------------------------------------------------------------------------------


def open_stream(module: PixelStreaming, generation: Generation) -> StreamState:
    """Return the state to go on from: new, after given frames, or loaded.

    Raises:
        ValueError: If something is missing or does not fit.
    """
    prompts = None if generation.prompts is None else read_prompts(generation.prompts)
    if generation.state_in is not None:
        return _continue(module, generation, prompts)
    if prompts is None:
        raise ValueError("give `--generation.prompts`: text, or a file with one prompt per line")
    seed = 0 if generation.seed is None else generation.seed
    video = None
    if generation.start is not None:
        video = read_start(module, generation.start).expand(len(prompts), -1, -1, -1, -1)
    events, later = read_timeline(generation.timeline, len(prompts), 1)
    return module.open_stream(
        prompts, seed=seed, start_video_BFCHW=video, timeline=events, later_prompts=later
    )


def _continue(
    module: PixelStreaming, generation: Generation, prompts: list[str] | None
) -> StreamState:
    assert generation.state_in is not None
    streamer = module.streamer
    state = load_stream_state(
        generation.state_in, fingerprint=streamer.fingerprint, device=module.device
    )
    if generation.seed is not None:
        state = replace(state, seed=generation.seed)
    if prompts is not None:
        if len(prompts) != state.batch_size:
            raise ValueError(
                f"{generation.state_in!r} holds {state.batch_size} streams, "
                f"got {len(prompts)} prompts; give one for each, or none to keep theirs"
            )
        timeline = tuple(replace(event, prompt=None) for event in state.timeline)
        texts = module.encode_text(prompts)[None]
        state = replace(state, texts_PBSD=texts, prompt=0, timeline=timeline)
    events, later = read_timeline(generation.timeline, state.batch_size, len(state.texts_PBSD))
    added = [module.encode_text(lines)[None] for lines in later]
    state = replace(
        state,
        texts_PBSD=torch.cat([state.texts_PBSD, *added]),
        timeline=(*state.timeline, *events),
    )
    return streamer.resume(state)


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
    scale = generation.upscale
    if scale is None:
        scale = 1 if generation.quality == "lossless" else watchable_scale(module.frame_size[0])
    check_picture(*module.frame_size, scale)
    frames = module.codec.temporal_stride * module.streamer.schedule.chunk_frames
    return VideoOptions(generation.fps, scale, generation.quality, frames)


def _with_progress(pieces: Iterator[VideoChunk], generation: Generation) -> Iterator[VideoChunk]:
    """Show a bar with the rate while the pieces pass by."""
    columns = (
        TextColumn("streaming"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("chunks"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("", total=generation.num_chunks, rate="")
        frames = 0
        for piece in pieces:
            frames += piece.video_BFCHW.shape[1]
            yield piece
            progress.advance(task)
            elapsed = progress.tasks[task].elapsed or 0.0
            done = progress.tasks[task].completed
            if elapsed > 0:
                pace = (
                    f"{done / elapsed:.1f} chunks/s"
                    if done > elapsed
                    else f"{elapsed / done:.1f} s/chunk"
                )
                rate = f"{pace}, {frames / elapsed:.1f} frames/s"
                progress.update(task, rate=rate)
