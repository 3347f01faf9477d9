"""generate: stream video from prompts, an image, a clip or a saved state; for as long as you like."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from lightning_adastate.generation.claim import Claim, claimed
from lightning_adastate.generation.interrupt import StopRequest
from lightning_adastate.generation.opening import (
    Beginning,
    begin,
    read_beginning,
    video_options,
)
from lightning_adastate.generation.options import Generation
from lightning_adastate.generation.outputs import StateVideo, StreamOutputs
from lightning_adastate.generation.run import StreamRun
from lightning_adastate.generation.saving import SavePolicy
from lightning_adastate.generation.settings import UNKNOWN, settings_of
from lightning_adastate.streaming.overlapped import stream_overlapped
from lightning_adastate.streaming.pipeline import PixelStreaming, VideoChunk, evaluating
from lightning_adastate.streaming.speed import DeviceFacts, SpeedPlan, Wishes
from lightning_adastate.types import StreamState
from lightning_adastate.weights import load_anchor, load_into


def generate(module: PixelStreaming, generation: Generation) -> int:
    """Stream, write, and return the exit code: 0, or 130 or 143 if a signal stopped it early.

    Stopping (Ctrl-C, SIGTERM) finishes the chunk at work; everything written so far is then valid. However it
    stops, the next call with the same settings goes on from the newest state that was saved (``Journal``), and the
    files become those of a run that was never stopped.

    Raises:
        ValueError: If prompts, start, state, names or weights do not fit, the output is finished, was begun with other
            settings or is written by another process, or a chunk is not finite.
        OSError: If the disk is full.
    """
    _check_state_video(module, generation)
    if generation.weights is not None:
        load_into(module.streamer.backbone, generation.weights)
        load_anchor(module.streamer.anchor, generation.weights)
    plan = plan_speed(module, generation)
    plan.apply(module)
    if module.device.type != "cpu":
        print(plan.sentence(), file=sys.stderr)
    with evaluating(module.streamer):
        beginning = read_beginning(module, generation)
        settings = settings_of(module, generation, beginning)
        # Taken first: what could not be saved is refused before it is streamed.
        known = generation.state_out is not None or UNKNOWN not in settings
        fingerprint = module.streamer.fingerprint if known else ""
        with claimed(generation, settings, beginning.num_streams) as claim:
            return _generate(module, generation, plan, beginning, claim, fingerprint)


def plan_speed(module: PixelStreaming, generation: Generation) -> SpeedPlan:
    """Decide which fast paths a run takes, on the module's device and under the precision in force."""
    wishes = Wishes.of(module, generation.decode)
    return SpeedPlan.decide(generation.speed, DeviceFacts.of(module.device), wishes)


def _generate(
    module: PixelStreaming,
    generation: Generation,
    plan: SpeedPlan,
    beginning: Beginning,
    claim: Claim,
    fingerprint: str,
) -> int:
    journal, num_chunks = claim.journal, beginning.num_chunks
    if journal.exists and not generation.overwrite:
        state, made = module.streamer.resume(journal.load(module.device)), journal.made()
        print(f"going on with chunk {made.num_chunks + 1} of {num_chunks}", file=sys.stderr)
    else:
        state, made = begin(module, generation, beginning), None
    outputs = StreamOutputs(
        video=claim.video,
        latents=generation.latents,
        state=generation.state_out,
        begun=state,
        video_options=video_options(module, generation),
        made=made,
        fingerprint=fingerprint,
        state_video=None
        if generation.state_video is None
        else StateVideo(generation.state_video, module.decode_state),
    )
    policy = SavePolicy(generation.state_every)
    left = num_chunks - outputs.made.num_chunks
    with (
        StopRequest() as stop,
        StreamRun(outputs, journal, num_chunks=num_chunks, policy=policy) as run,
        closing(_stream(module, state, left, plan)) as pieces,
    ):
        for piece in _with_progress(pieces, num_chunks, outputs.made.num_chunks):
            # The chunk is waited for here anyway: it goes to the encoder.
            if not bool(piece.chunk.latents_BFCHW.isfinite().all()):
                raise ValueError(_not_finite(piece.chunk.index, outputs))
            run.append(piece if plan.bytes_out.taken else _on_cpu(piece))
            if stop.asked:
                break
    print("written to " + ", ".join(map(str, outputs.paths)))
    return 0 if run.is_whole else stop.exit_code


def _on_cpu(piece: VideoChunk) -> VideoChunk:
    return replace(piece, video_BFCHW=piece.video_BFCHW.cpu())


def _check_state_video(module: PixelStreaming, generation: Generation) -> None:
    """Refuse to show a hidden state that the anchor does not have."""
    anchor = module.streamer.anchor
    if generation.state_video is not None and not anchor.num_state_frames:
        raise ValueError(
            f"`generation.state_video` shows a hidden state, which {type(anchor).__name__} does not have; leave it "
            "out, or use AdaptiveAnchor"
        )


def _not_finite(chunk: int, outputs: StreamOutputs) -> str:
    kept = (
        "what was written before it is whole" if outputs.made.num_chunks else "nothing was written"
    )
    return (
        f"the latents of chunk {chunk} are not finite; {kept}; look at the weights, or set `trainer.precision` to "
        "32-true"
    )


def _stream(
    module: PixelStreaming, state: StreamState, num_chunks: int, plan: SpeedPlan
) -> Generator[VideoChunk, None, None]:
    """Yield the chunks, each when it is wanted; closing it stops the work on the next."""
    if plan.overlapped.taken:
        yield from stream_overlapped(module, state, num_chunks)
    else:
        yield from module.stream(state, num_chunks)


def _with_progress(
    pieces: Iterator[VideoChunk], num_chunks: int, begun: int
) -> Iterator[VideoChunk]:
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
        task = progress.add_task("", total=num_chunks, completed=begun, rate="")
        frames = 0
        for piece in pieces:
            frames += piece.video_BFCHW.shape[1]
            yield piece
            progress.advance(task)
            elapsed = progress.tasks[task].elapsed or 0.0
            done = progress.tasks[task].completed - begun
            if elapsed > 0:
                pace = (
                    f"{done / elapsed:.1f} chunks/s"
                    if done > elapsed
                    else f"{elapsed / done:.1f} s/chunk"
                )
                rate = f"{pace}, {frames / elapsed:.1f} frames/s"
                progress.update(task, rate=rate)


__all__ = ["Generation", "generate"]
