"""A recorded case of another implementation, run through our loop and compared."""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_adastate.analysis.recordings import (
    LEFT_ASIDE,
    LayoutChunk,
    read_case,
    read_layout,
)
from lightning_adastate.noise import NoiseKey, NoiseSource, RecordedNoise
from lightning_adastate.rope import rope_table, rotate
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import KV, Chunk, Event, StreamState
from lightning_adastate.weights import load_into

LABEL = re.compile(r"[frs]\d+|ema\d+|mem_(long|short)")
"""Names of cache slots; see ``cache_by_label``."""


class Case(dict[str, Tensor]):
    """A case's tensors, and which of them were looked at: what is left over was not compared."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.used.add(name)
        return super().__getitem__(name)

    @property
    def left_over(self) -> list[str]:
        """Return the tensors that nobody looked at, though they say something of their own."""
        return [n for n in sorted(self.keys() - self.used) if not LEFT_ASIDE.fullmatch(n)]


def run_replay(
    streamer: Streamer,
    *,
    weights: str,
    case: str,
    layout: str | None = None,
    tolerance: float = 1e-5,
) -> int:
    """Replay ``case``, print the differences per chunk and overall, and return the exit code.

    It is 0 only if everything that the case holds was compared, and is within the tolerance.

    Raises:
        ValueError: If a file is missing or does not hold what is needed.
    """
    load_into(streamer.backbone, weights)
    tensors = Case(read_case(case))
    recorded = read_layout(case, layout)
    labels = recorded.get("slots_after", {})
    state, noise, chunk_count = prepare(streamer.eval(), tensors, recorded["chunks"])
    expected = tensors["latents"]
    worst = 0.0
    start = 0
    for index in range(chunk_count):
        gaps = compare_opened(streamer, state, tensors, labels)
        with torch.no_grad():
            chunk = streamer.step(state, noise=noise)
        stop = start + chunk.latents_BFCHW.shape[1]
        difference = _distance(chunk.latents_BFCHW, expected[:, start:stop])
        line = f"chunk {index:3d}  frames {start:4d}-{stop - 1:<4d} max abs difference {difference:.3e}"
        gaps |= compare_states(chunk, tensors)
        gaps |= compare_cache(chunk.state, tensors, labels, f"chunk{index:02d}")
        print(line, *(f" {name} {gap:.3e}" for name, gap in gaps.items()))
        worst = max([worst, difference, *gaps.values()])
        state, start = chunk.state, stop
    if "kv0_k" in tensors:
        difference = compare_rotated(streamer, state, tensors)
        print(f"final cache, rotated at frame indices: max abs difference {difference:.3e}")
        worst = max(worst, difference)
    verdict = "within" if worst <= tolerance else "ABOVE"
    print(f"max abs difference {worst:.3e} over {start} frames: {verdict} tolerance {tolerance:g}")
    if tensors.left_over:
        print(
            f"NOT COMPARED, the configuration or the layout has no place for it: {', '.join(tensors.left_over)}"
        )
    return 0 if worst <= tolerance and not tensors.left_over else 1


def prepare(
    streamer: Streamer, tensors: Mapping[str, Tensor], layout: Sequence[LayoutChunk]
) -> tuple[StreamState, NoiseSource, int]:
    """Return the stream to start from, the recorded noise, and the number of chunks."""
    noise = tensors["noise"]
    _, frames, channels, height, width = noise.shape
    sizes = streamer.schedule.chunks_of(frames)
    names = [f"text.{i}" for i in range(len(tensors)) if f"text.{i}" in tensors] or ["text"]
    state = streamer.start(
        tensors[names[0]],
        latent_shape=(channels, height, width),
        later_texts=[tensors[name] for name in names[1:]],
        timeline=timeline_of(layout, streamer.anchor.num_frames),
    )
    draws = recorded_draws(streamer, tensors, sizes)
    return state, RecordedNoise(draws), len(sizes)


def recorded_draws(
    streamer: Streamer, tensors: Mapping[str, Tensor], sizes: Sequence[int]
) -> dict[NoiseKey, Tensor]:
    """Lay the recorded draws out by chunk, step and slot."""
    noise = tensors["noise"]
    batch = noise.shape[0]
    hidden = streamer.anchor.num_state_frames > 0
    names = iter(sorted(name for name in tensors if re.fullmatch(r"drawn\.\d+", name)))
    draws: dict[NoiseKey, Tensor] = {}
    start = 0
    for chunk, size in enumerate(sizes):
        draws[NoiseKey(chunk, 0, "content")] = noise[:, start : start + size]
        if hidden and "state_noise" in tensors:
            draws[NoiseKey(chunk, 0, "state")] = tensors["state_noise"][None, chunk]
        passes = [one for one in streamer.schedule.passes(chunk) if one.kind == "denoise"]
        for step in range(1, len(passes)):
            if hidden and "renoise_content" in tensors:
                draws[NoiseKey(chunk, step, "content")] = tensors["renoise_content"][
                    None, chunk, step - 1
                ]
                draws[NoiseKey(chunk, step, "state")] = tensors["renoise_state"][
                    None, chunk, step - 1
                ]
            elif (name := next(names, None)) is not None:
                flat = tensors[name]
                draws[NoiseKey(chunk, step, "content")] = flat.unflatten(0, (batch, -1))
        start += size
    return draws


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


def compare_opened(
    streamer: Streamer,
    state: StreamState,
    tensors: Mapping[str, Tensor],
    labels: Mapping[str, list[str]],
) -> dict[str, float]:
    """Return the differences of what an event encodes anew before the next chunk, where it is recorded."""
    tag = f"recache{state.chunk:02d}"
    if f"cache0.{tag}.k" not in tensors:
        return {}
    with torch.no_grad():
        opened, _ = streamer.open_chunk(state)
    gaps = compare_cache(opened, tensors, labels, tag)
    return {f"re-encoded {name}": gap for name, gap in gaps.items()}


def compare_cache(
    state: StreamState,
    tensors: Mapping[str, Tensor],
    labels: Mapping[str, list[str]],
    tag: str,
) -> dict[str, float]:
    """Return the differences of layer 0's keys and values under ``tag``, slot by slot by label.

    Raises:
        ValueError: If the labels are not as many as the slots, or of an unknown kind.
    """
    if f"cache0.{tag}.k" not in tensors or tag not in labels:
        return {}
    keys, values = tensors[f"cache0.{tag}.k"], tensors[f"cache0.{tag}.v"]
    if not len(labels[tag]) == len(keys) == len(values):
        raise ValueError(
            f"the layout names {len(labels[tag])} slots of {tag}, the case holds {len(keys)} keys and "
            f"{len(values)} values"
        )
    ours = cache_by_label(state)
    seen: Counter[str] = Counter()
    gaps = {"k": 0.0, "v": 0.0}
    for slot, label in enumerate(labels[tag]):
        if not LABEL.fullmatch(label):
            raise ValueError(
                f"the layout names slot {slot} of {tag} {label!r}, which replay does not know"
            )
        if label not in ours:  # the recording holds a frame that our stream has lost
            return {f"cache, without {label}": math.inf}
        key, value = ours[label][seen[label] % len(ours[label])]
        seen[label] += 1
        gaps["k"] = max(gaps["k"], _distance(key, keys[slot]))
        gaps["v"] = max(gaps["v"], _distance(value, values[slot]))
    return {f"cache ({seen.total()} frames) k": gaps["k"], "v": gaps["v"]}


def cache_by_label(state: StreamState) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Return layer 0 of the first row by the recordings' labels.

    ``fN`` and ``rN`` are frame N, as committed or re-encoded; ``emaI`` slot I of an average, ``sC``
    the state frames after chunk C in order, ``mem_long`` and ``mem_short`` a first and second memory.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def put(label: str, kv: KV, frame: int) -> None:
        pair = (kv.key_LBFTND[0, 0, frame], kv.value_LBFTND[0, 0, frame])
        found.setdefault(label, []).append(pair)

    memories = iter(("mem_long", "mem_short"))
    for name, kv in state.anchor.items():
        short = name.rpartition(".")[2]
        memory = next(memories) if short == "memory" else short
        for frame, frame_index in enumerate(kv.frame_indices):
            known = {
                "average": f"ema{frame}",
                "state": f"s{state.chunk - 1}",
                "memory": memory,
            }
            put(known.get(short, f"f{frame_index}"), kv, frame)
            if short not in known:  # re-encoded, if the anchor began anew
                put(f"r{frame_index}", kv, frame)
    for block in state.blocks:
        for frame, frame_index in enumerate(block.frame_indices):
            put(f"f{frame_index}", block, frame)
            put(f"r{frame_index}", block, frame)
    return found


def compare_states(chunk: Chunk, tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the difference of the hidden state's latents, where the record has them."""
    if "states" not in tensors or chunk.state_latents_BFCHW is None:
        return {}
    chunks = tensors["state_chunks"].tolist()
    if chunk.index not in chunks:
        return {}
    ours = chunk.state_latents_BFCHW[0]
    recorded = tensors["states"][chunks.index(chunk.index)].reshape(ours.shape)
    return {"state": _distance(ours, recorded)}


def compare_rotated(
    streamer: Streamer, state: StreamState, tensors: Mapping[str, Tensor]
) -> float:
    """Return the difference from a final cache that was stored rotated at frame indices (``kv0_k``)."""
    shown = streamer.anchor.read(state.anchor, (*state.cached_frame_indices, state.first_frame)[0])
    whole = KV.cat([*shown, *state.blocks])
    grid = streamer.backbone.token_grid(*state.latent_shape[1:])
    frame_indices = tuple(float(frame_index) for frame_index in whole.frame_indices)
    table = rope_table(frame_indices, *grid, streamer.backbone.head_dim, torch.device("cpu"))
    ours = rotate(whole.key_LBFTND[0].flatten(1, 2), table)
    tokens = ours.shape[1]
    key = _distance(ours, tensors["kv0_k"][:, :tokens])
    return max(key, _distance(whole.value_LBFTND[0].flatten(1, 2), tensors["kv0_v"][:, :tokens]))


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest absolute difference; not a number counts as infinite."""
    gap = (ours.double() - theirs.double()).abs().max().item()
    return math.inf if math.isnan(gap) else gap
