"""Stream states, in and out: safetensors, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightning_adastate.files import save_tensors
from lightning_adastate.streaming.fingerprint import check_fingerprint
from lightning_adastate.types import KV, SCHEMA_VERSION, Event, StreamState, TokenPlaces


def save_stream_state(path: str | Path, state: StreamState, *, fingerprint: str = "") -> None:
    """Write everything a stream needs to go on, without pickle.

    Args:
        path: Where to; conventionally ``.safetensors``.
        state: The state.
        fingerprint: ``Streamer.fingerprint`` of the components and weights it belongs to, or
            ``Streamer.components_fingerprint`` where weights may change; empty fits everything.
    """
    tensors, header = pack_stream_state(state, fingerprint=fingerprint)
    save_tensors(path, tensors, {"stream_state": header})


def pack_stream_state(
    state: StreamState, *, fingerprint: str = ""
) -> tuple[dict[str, Tensor], str]:
    """Return a state as named tensors and a header of JSON; `unpack_stream_state` takes them back."""
    tensors = {"texts": state.texts_PBSD, **{f"codec.{k}": v for k, v in state.codec.items()}}
    blocks = {f"blocks.{i:04d}": block for i, block in enumerate(state.blocks)}
    history = {f"history.{i:04d}": block for i, block in enumerate(state.history)}
    anchor = {f"anchor.{name}": kv for name, kv in state.anchor.items()}
    frames = {**blocks, **history, **anchor}
    for name, kv in frames.items():
        tensors[f"{name}.key"] = kv.key_LBFTND
        tensors[f"{name}.value"] = kv.value_LBFTND
        if kv.places is not None:
            for axis, place in zip(TokenPlaces._fields, kv.places, strict=True):
                tensors[f"{name}.{axis}"] = place
    for name, latents in (("recent", state.recent_BFCHW), ("pending", state.pending_BFCHW)):
        if latents is not None:
            tensors[name] = latents
    header = {
        "schema": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "chunk": state.chunk,
        "first_frame": state.first_frame,
        "latent_shape": state.latent_shape,
        "prompt": state.prompt,
        "seed": state.seed,
        "stream_ids": state.stream_ids,
        "given_chunks": state.given_chunks,
        "timeline": [dataclasses.asdict(event) for event in state.timeline],
        "frame_indices": {name: kv.frame_indices for name, kv in frames.items()},
    }
    return tensors, json.dumps(header)


def load_stream_state(
    path: str | Path, *, fingerprint: str = "", device: torch.device | str = "cpu"
) -> StreamState:
    """Read a state back. Call ``Streamer.resume`` on it before going on.

    Raises:
        ValueError: If the file is no stream state, is corrupt, or belongs to other components or weights.
    """
    try:
        tensors, metadata = _read_tensors(Path(path))
        if "stream_state" not in metadata:
            raise ValueError("it holds other tensors")
        json.loads(metadata["stream_state"])
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(
            f"cannot read a stream state from {str(path)!r}: {_first_line(error)}"
        ) from error
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    header = metadata["stream_state"]
    return unpack_stream_state(tensors, header, fingerprint=fingerprint, name=repr(str(path)))


def unpack_stream_state(
    tensors: Mapping[str, Tensor], packed: str, *, fingerprint: str = "", name: str = "it"
) -> StreamState:
    """Return the state that `pack_stream_state` took apart.

    Raises:
        ValueError: If it is of another version of the format, or belongs to other components or weights.
    """
    header = json.loads(packed)
    if header["schema"] != SCHEMA_VERSION:
        raise ValueError(
            f"{name} has schema {header['schema']}, expected {SCHEMA_VERSION}: another version of this package "
            "saved it; go on with that one, or begin a new stream"
        )
    check_fingerprint(header["fingerprint"], fingerprint, name)
    frames = {
        name: _frames(tensors, name, frame_indices)
        for name, frame_indices in header["frame_indices"].items()
    }
    return StreamState(
        chunk=header["chunk"],
        first_frame=header["first_frame"],
        latent_shape=tuple(header["latent_shape"]),
        blocks=tuple(frames[name] for name in sorted(frames) if name.startswith("blocks.")),
        history=tuple(frames[name] for name in sorted(frames) if name.startswith("history.")),
        anchor={
            n.removeprefix("anchor."): kv for n, kv in frames.items() if n.startswith("anchor.")
        },
        texts_PBSD=tensors["texts"],
        prompt=header["prompt"],
        seed=header["seed"],
        stream_ids=tuple(header["stream_ids"]),
        given_chunks=header["given_chunks"],
        timeline=tuple(Event(**event) for event in header["timeline"]),
        recent_BFCHW=tensors.get("recent"),
        pending_BFCHW=tensors.get("pending"),
        codec={n.removeprefix("codec."): t for n, t in tensors.items() if n.startswith("codec.")},
    )


def _frames(tensors: Mapping[str, Tensor], name: str, frame_indices: Sequence[int]) -> KV:
    """Return the frames saved under ``name``."""
    places = [tensors.get(f"{name}.{axis}") for axis in TokenPlaces._fields]
    known = [place for place in places if place is not None]
    return KV(
        tensors[f"{name}.key"],
        tensors[f"{name}.value"],
        tuple(frame_indices),
        TokenPlaces(*known) if known else None,
    )


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a safetensors file's tensors and metadata."""
    with safe_open(file, framework="pt") as handle:
        names = handle.keys()
        return {name: handle.get_tensor(name) for name in names}, handle.metadata() or {}


def _first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
