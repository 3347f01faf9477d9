"""A session in a file: a stream state as `generate` takes it, with the other lane and the seed beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lightning_adastate.files import save_tensors
from lightning_adastate.serve.lane import LaneState
from lightning_adastate.serve.snapshot import Snapshot
from lightning_adastate.streaming.pipeline import PixelStreaming
from lightning_adastate.streaming.state_file import pack_stream_state, unpack_stream_state

SECOND = "second."
"""Stands before the names of the second lane's tensors."""


def save_session(
    path: str | Path, snapshot: Snapshot, modules: Mapping[str, PixelStreaming]
) -> None:
    """Write where a session stands, whole or not at all, without pickle.

    Args:
        path: Where to; conventionally ``.safetensors``. ``generate --generation.state_in`` takes it as well, and goes on
            with the first lane.
        snapshot: Where it stands.
        modules: What it streams with, by the name of the anchor: a state belongs to components and weights.

    Raises:
        OSError: If it cannot be written; what was there stays.
    """
    packed = [
        pack_stream_state(at.state, fingerprint=modules[at.anchor].streamer.fingerprint)
        for at in snapshot.lanes
    ]
    tensors, metadata = dict(packed[0][0]), {"stream_state": packed[0][1]}
    if len(packed) > 1:
        tensors |= {f"{SECOND}{name}": tensor for name, tensor in packed[1][0].items()}
        metadata["second"] = packed[1][1]
    lanes = [[at.anchor, at.prompt] for at in snapshot.lanes]
    metadata["session"] = json.dumps({"seed": snapshot.seed, "lanes": lanes})
    save_tensors(path, tensors, metadata)


def load_session(path: str | Path, modules: Mapping[str, PixelStreaming]) -> Snapshot:
    """Read where a session stood.

    Raises:
        ValueError: If the file is no session, is corrupt, or belongs to other anchors, components or weights.
    """
    try:
        with safe_open(Path(path), framework="pt") as handle:
            names = handle.keys()
            tensors = {name: handle.get_tensor(name) for name in names}
            metadata = handle.metadata() or {}
        session = json.loads(metadata["session"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"cannot read a session from {str(path)!r}: {error}") from error
    headers = [metadata["stream_state"], metadata.get("second", "")]
    parts = [
        {name: each for name, each in tensors.items() if not name.startswith(SECOND)},
        {n.removeprefix(SECOND): each for n, each in tensors.items() if n.startswith(SECOND)},
    ]
    lanes = []
    for (anchor, prompt), part, header in zip(session["lanes"], parts, headers, strict=False):
        if anchor not in modules:
            raise ValueError(
                f"the session {str(path)!r} streams with the anchor {anchor!r}, and there are only "
                f"{', '.join(modules)}"
            )
        module = modules[anchor]
        placed = {name: tensor.to(module.device) for name, tensor in part.items()}
        mark = module.streamer.fingerprint
        state = unpack_stream_state(placed, header, fingerprint=mark, name=repr(str(path)))
        lanes.append(LaneState(anchor, prompt, state))
    return Snapshot(tuple(lanes), session["seed"])
