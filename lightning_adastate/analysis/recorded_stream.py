"""A recorded case as a stream of ours: where it begins, its noise, and what happens on the way."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.analysis.recordings import LayoutChunk
from lightning_adastate.noise import NoiseKey, NoiseSource, RecordedNoise
from lightning_adastate.schedules.base import Schedule, denoise_passes
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import Event, StreamState


class Beginning(NamedTuple):
    """Where a replay begins.

    Args:
        state: The stream after the given frames.
        noise: The recorded draws.
        num_chunks: Chunks to generate.
        given_BFCHW: The given frames; none of them is an empty tensor.
    """

    state: StreamState
    noise: NoiseSource
    num_chunks: int
    given_BFCHW: Tensor


def begin(
    streamer: Streamer,
    tensors: Mapping[str, Tensor],
    layout: Sequence[LayoutChunk],
    exit_step: int | None = None,
) -> Beginning:
    """Lay the recorded noise out, and commit the given frames.

    Args:
        streamer: Who replays.
        tensors: The case.
        layout: What happened on the way.
        exit_step: The denoise pass at which every chunk was left; ``None`` is the last.

    Raises:
        ValueError: If frames are no whole chunks, or no chunk has that pass.
    """
    noise = tensors["noise"]
    channels, height, width = noise.shape[2:]
    given = tensors["initial_latent"] if "initial_latent" in tensors else noise[:, :0]
    count = given.shape[1]
    sizes = streamer.schedule.chunks_of(count + noise.shape[1])
    num_given = len(streamer.schedule.chunks_of(count)) if count else 0
    names = [f"text.{i}" for i in range(len(tensors)) if f"text.{i}" in tensors] or ["text"]
    state = streamer.start(
        tensors[names[0]],
        latent_shape=(channels, height, width),
        later_texts=[tensors[name] for name in names[1:]],
        timeline=timeline_of(layout, streamer.anchor.num_frames),
    )
    draws = RecordedNoise(recorded_draws(streamer, tensors, sizes, num_given, exit_step))
    with torch.no_grad():
        state = streamer.prefill(state, given, noise=draws)
    return Beginning(streamer.resume(state), draws, len(sizes) - num_given, given)


def recorded_draws(
    streamer: Streamer,
    tensors: Mapping[str, Tensor],
    sizes: Sequence[int],
    num_given: int = 0,
    exit_step: int | None = None,
) -> dict[NoiseKey, Tensor]:
    """Lay the recorded draws out by chunk, step and slot.

    ``noise`` is that of the frames that are generated; the draws are in the order of the recording.

    Args:
        streamer: Whose passes take them.
        tensors: The case.
        sizes: Frames of every chunk, given ones included.
        num_given: How many of the chunks are given.
        exit_step: The denoise pass at which every other chunk is left.

    Raises:
        ValueError: If a chunk has no such pass.
    """
    hidden = streamer.anchor.num_state_frames > 0
    drawn = iter(sorted(name for name in tensors if re.fullmatch(r"drawn\.\d+", name)))
    draws: dict[NoiseKey, Tensor] = {}
    start = 0
    for chunk, size in enumerate(sizes):
        generated = chunk >= num_given
        if hidden and "state_noise" in tensors:
            draws[NoiseKey(chunk, 0, "state")] = tensors["state_noise"][None, chunk]
        if generated:
            draws[NoiseKey(chunk, 0, "content")] = tensors["noise"][:, start : start + size]
            start += size
        given = min(chunk, num_given)
        for step in _drawing_steps(
            streamer.schedule, chunk, given, exit_step if generated else None
        ):
            if hidden and "renoise_content" in tensors:
                for slot in ("content", "state"):
                    recorded = tensors[f"renoise_{slot}"][None, chunk, step - 1]
                    draws[NoiseKey(chunk, step, slot)] = recorded
            elif generated and (name := next(drawn, None)) is not None:
                flat = tensors[name]
                draws[NoiseKey(chunk, step, "content")] = flat.unflatten(
                    0, (len(tensors["noise"]), -1)
                )
    return draws


def _drawing_steps(
    schedule: Schedule, chunk: int, given_chunks: int, exit_step: int | None
) -> Iterator[int]:
    """Yield the steps of a chunk that take fresh noise: after each pass but its last, and before a noised commit."""
    passes = schedule.passes_at(chunk, given_chunks)
    count = len(denoise_passes(passes))
    if exit_step is not None and not 0 <= exit_step < count:
        raise ValueError(f"`exit_step` must be in [0, {count}) in chunk {chunk}, got {exit_step}")
    leaves = exit_step is not None and schedule.after_exit == "commit"
    yield from range(1, 1 + exit_step if leaves and exit_step is not None else count)
    if any(one.kind == "commit" and one.input_sigma for one in passes):
        yield len(passes)


def timeline_of(layout: Sequence[LayoutChunk], anchor_frames: int) -> list[Event]:
    """Translate a layout's switches, flushes, cuts and re-encodes into events."""
    events = []
    before = layout[0].get("text", 0) if layout else 0
    for chunk in layout:
        prompt, happened = chunk.get("text", before), chunk.get("event") or {}
        if prompt == before and not happened:
            continue
        queries, kept = happened.get("queries", []), happened.get("kept")
        sink_kept = happened.get("sink_kept", True)
        protected = sink_kept and bool(queries) and queries[0] not in ("r0", "f0")
        events.append(
            Event(
                chunk=chunk["chunk"],
                prompt=prompt if prompt != before else None,
                keep_frames=None if kept is None else len(kept) - anchor_frames,
                live_start=chunk["denoise"]["k"][0] if happened.get("cut") else None,
                recache_frames=len(queries) - (anchor_frames if protected else 0),
                reset_anchor=not sink_kept,
            )
        )
        before = prompt
    return events
