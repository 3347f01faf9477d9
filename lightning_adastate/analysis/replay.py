"""A recorded case of another implementation, run through our loop and compared."""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from lightning_adastate.analysis.recorded_gradients import compare_gradients, holds_gradients
from lightning_adastate.analysis.recorded_stream import Beginning, begin
from lightning_adastate.analysis.recordings import Case, read_case, read_layout
from lightning_adastate.rope import rope_table, rotate
from lightning_adastate.streaming.commit import KVGradient
from lightning_adastate.streaming.context import ChunkContext
from lightning_adastate.streaming.observer import StepObserver
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import KV, Chunk, StreamState
from lightning_adastate.weights import load_into

LABEL = re.compile(r"[frs]\d+|ema\d+|mem_(long|short)")
"""Names of cache slots; see ``cache_by_label``."""


def run_replay(
    streamer: Streamer,
    *,
    weights: str,
    case: str,
    layout: str | None = None,
    tolerance: float = 1e-5,
    exit_step: int | None = None,
    kv_gradient: KVGradient = "detach",
) -> int:
    """Replay ``case``, print the differences per chunk and overall, and return the exit code.

    It is 0 only if everything that the case holds was compared, and is within the tolerance.

    Args:
        streamer: The components that are to agree with the recording.
        weights: File of the backbone's weights.
        case: The recording.
        layout: What its slots hold and what happened on the way; ``None`` is the file beside it.
        tolerance: Largest difference: of latents, states and caches absolute, of a loss and of each gradient
            relative (to its norm).
        exit_step: The denoise pass at which the recording left every chunk; ``None`` is the last.
        kv_gradient: What cached keys and values passed back, where the case holds gradients.

    Raises:
        ValueError: If a file is missing or does not hold what is needed.
    """
    if tolerance < 0.0:
        raise ValueError(f"`tolerance` must be 0 or more, got {tolerance}")
    load_into(streamer.backbone, weights)
    tensors = Case(read_case(case))
    recorded = read_layout(case, layout)
    labels = recorded.get("slots_after", {})
    graph = holds_gradients(tensors)
    with torch.set_grad_enabled(graph):
        beginning = begin(streamer.eval(), tensors, recorded["chunks"], exit_step)
        chunks = list(_steps(streamer, beginning, exit_step, kv_gradient if graph else "detach"))
    worst, frames = _compare_chunks(chunks, beginning, tensors, labels)
    if "kv0_k" in tensors:
        difference = compare_rotated(streamer, chunks[-1][1].state, tensors)
        print(f"final cache, rotated at frame indices: max abs difference {difference:.3e}")
        worst = max(worst, difference)
    if graph:
        latents = [beginning.given_BFCHW, *(chunk.latents_BFCHW for _, chunk in chunks)]
        gaps = compare_gradients(streamer.backbone, torch.cat(latents, dim=1), tensors)
        print(*(f"{name} {gap:.3e}" for name, gap in gaps.items()))
        worst = max(worst, *gaps.values())
    verdict = "within" if worst <= tolerance else "ABOVE"
    print(
        f"max abs difference {worst:.3e} over {frames} frames: {verdict} tolerance {tolerance:g}"
    )
    if tensors.left_over:
        print(
            f"NOT COMPARED, the configuration or the layout has no place for it: {', '.join(tensors.left_over)}"
        )
    return 0 if worst <= tolerance and not tensors.left_over else 1


class _Opening(StepObserver):
    """Keep the state as the events at a chunk's start leave it."""

    state: StreamState

    def on_context(self, context: ChunkContext, *, reencodes: bool) -> None:
        """The chunk's own context comes after those that encode anew."""
        if not reencodes:
            self.state = context.state


def _steps(
    streamer: Streamer, beginning: Beginning, exit_step: int | None, kv_gradient: KVGradient
) -> Iterator[tuple[StreamState, Chunk]]:
    """Yield every chunk, and the state after the events that opened it."""
    state = beginning.state
    for _ in range(beginning.num_chunks):
        opening = _Opening()
        chunk = streamer.step(
            state,
            noise=beginning.noise,
            exit_step=exit_step,
            kv_gradient=kv_gradient,
            observer=opening,
        )
        yield opening.state, chunk
        state = chunk.state


@torch.no_grad()
def _compare_chunks(
    chunks: list[tuple[StreamState, Chunk]],
    beginning: Beginning,
    tensors: Case,
    labels: Mapping[str, list[str]],
) -> tuple[float, int]:
    """Print the differences chunk by chunk; return the largest, and how many frames there are."""
    expected, start = tensors["latents"], beginning.given_BFCHW.shape[1]
    worst = _distance(beginning.given_BFCHW, expected[:, :start]) if start else 0.0
    if start:
        print(f"given      frames    0-{start - 1:<4d} max abs difference {worst:.3e}")
    for opened, chunk in chunks:
        gaps = compare_opened(opened, tensors, labels)
        stop = start + chunk.latents_BFCHW.shape[1]
        difference = _distance(chunk.latents_BFCHW, expected[:, start:stop])
        line = f"chunk {chunk.index:3d}  frames {start:4d}-{stop - 1:<4d} max abs difference {difference:.3e}"
        gaps |= compare_states(chunk, tensors)
        gaps |= compare_cache(chunk.state, tensors, labels, f"chunk{chunk.index:02d}")
        print(line, *(f" {name} {gap:.3e}" for name, gap in gaps.items()))
        worst = max([worst, difference, *gaps.values()])
        start = stop
    return worst, start


def compare_opened(
    opened: StreamState, tensors: Mapping[str, Tensor], labels: Mapping[str, list[str]]
) -> dict[str, float]:
    """Return the differences of what an event encoded anew before a chunk, where it is recorded."""
    tag = f"recache{opened.chunk:02d}"
    if f"cache0.{tag}.k" not in tensors:
        return {}
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
