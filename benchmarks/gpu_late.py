"""Step 5: a chunk far into a stream against chunk 20, and what ten thousand chunks leave behind."""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from bound import milliseconds
from cases import Case, in_turns
from models import CHUNK, SIZES, Variant, backbone, prompt, streamer_of
from rows import Row, most_resident

from lightning_adastate.streaming.buffers import StreamBuffers
from lightning_adastate.types import KV, StreamState

EARLY, LATE = 20, 10_000
CACHED, ANCHOR = 3, "state"


def late_parts(scale, folder: Path):
    """Return step 5."""
    del folder
    setup, mode = scale.setup(), scale.modes[-1]
    chunks = 100 if scale.is_small else LATE
    return {
        "jumped": lambda: (jumped_rows(setup, scale.variant(mode)), {}),
        "leaks": lambda: ([], leaks(scale.device, chunks, scale.variant(mode))),
    }


def jumped(state: StreamState, chunk: int) -> StreamState:
    """Return the state as if so many chunks had gone by: all frame indices move, the contents stay."""
    shift = (chunk - state.chunk) * CHUNK

    def moved(kv: KV) -> KV:
        return replace(kv, frame_indices=tuple(index + shift for index in kv.frame_indices))

    return replace(
        state,
        chunk=chunk,
        first_frame=state.first_frame + shift,
        blocks=tuple(moved(block) for block in state.blocks),
        history=tuple(moved(block) for block in state.history),
        anchor={name: moved(kv) for name, kv in state.anchor.items()},
    )


def jumped_rows(setup, variant: Variant) -> list[Row]:
    """Time chunks behind number 20 and behind number 10,000 of one stream, in turns."""
    streamer = streamer_of(setup.model, CACHED, ANCHOR)
    variant.choose(setup.model)
    state = setup.start(streamer)
    with torch.no_grad():
        for _ in range(EARLY):
            state = streamer.step(state).state

    def behind(chunk: int) -> Iterator[object]:
        return streamer.stream(jumped(state, chunk))

    cases = {
        chunk: Case(setup, variant, lambda chunk=chunk: behind(chunk), warm=4)
        for chunk in (LATE, EARLY)
    }
    in_turns(setup, cases, f"chunk {EARLY} and {LATE}")
    return [
        setup.row(
            "DiT",
            f"{case.path}, chunk {chunk}",
            statistics.median(case.times),
            attention=variant.attention,
            cached_frames=CACHED,
            anchor=ANCHOR,
        )
        for chunk, case in sorted(cases.items())
    ]


@torch.no_grad()
def leaks(device: torch.device, chunks: int, variant: Variant) -> dict[str, object]:
    """Really stream so many chunks of the small model; return memory and milliseconds, early and at the end."""
    size = SIZES["tiny" if device.type == "cpu" else "small"]
    model = backbone(size, device, torch.float32)
    variant = variant if device.type == "cpu" else variant._replace(attention="sdpa")
    variant.choose(model)
    streamer = streamer_of(model, CACHED, ANCHOR)
    state, buffers = (
        streamer.start(prompt(size, device), latent_shape=size.latent),
        StreamBuffers(),
    )
    times, held = [], {}
    early = min(100, chunks // 2)
    for number in range(chunks):
        made = []
        step = lambda state=state, made=made: made.append(streamer.step(state, buffers=buffers))
        times.append(milliseconds(step, device))
        state = made[0].state
        if number in (early, chunks - 1):
            held[number] = _held_mb(device)
    return {
        "chunks": chunks,
        "held MB": held,
        "ms, early": statistics.median(times[early : 2 * early]),
        "ms, end": statistics.median(times[-early:]),
    }


def _held_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    return most_resident()
