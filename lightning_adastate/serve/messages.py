"""What is sent to viewers: pictures of chunks with their numbers, and the session's status."""

# Shapes: F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from lightning_adastate.analysis.attention import PassMass
from lightning_adastate.media.fragments import encode_fragment
from lightning_adastate.media.video import watchable_scale
from lightning_adastate.serve.lane import LivePolicy
from lightning_adastate.serve.session import MAX_LANES, MAX_SAVES, LiveSession
from lightning_adastate.serve.snapshot import Made

GREY = 0.5
SMALLEST = 64
"""Pixels that a picture's side has at least: colours of single pixels would be lost."""


def pack_chunk(made: Sequence[Made], *, fps: int, seconds: float) -> bytes:
    """Return a chunk as one message: the length of a JSON header in 4 bytes, the header, a fragment.

    All lanes are one picture, side by side, so that they cannot get out of step; the header says where everything is.

    Args:
        made: What the lanes made.
        fps: Frames per second.
        seconds: What it took to make.
    """
    panels: list[Tensor] = []
    layout = []
    for number, lane in enumerate(made):
        panels.append(lane.chunk.video_FCHW)
        layout.append([number, "content"])
        if lane.has_hidden:
            panels.append(_hidden_panel(lane))
            layout.append([number, "hidden"])
    height, width = panels[0].shape[2:]
    scale = watchable_scale(height, SMALLEST)
    # Everybody is as long as the shortest: a lane that was restored at its beginning makes a shorter chunk.
    frames = min(map(len, panels))
    fragment = encode_fragment(
        torch.cat([panel[-frames:] for panel in panels], 3), fps=fps, scale=scale
    )
    header = {
        "type": "chunk",
        "mime": fragment.mime,
        "fps": fps,
        "frames": frames,
        "seconds": round(seconds, 4),
        "panel": [width * scale, height * scale],
        "layout": layout,
        "lanes": [_numbers(lane) for lane in made],
    }
    packed = json.dumps(header, allow_nan=False).encode()
    return struct.pack(">I", len(packed)) + packed + fragment.data


def unpack_chunk(message: bytes) -> tuple[dict[str, object], bytes]:
    """Return the header and the fragment of a message."""
    (length,) = struct.unpack(">I", message[:4])
    header: dict[str, object] = json.loads(message[4 : 4 + length])
    return header, message[4 + length :]


def status_message(session: LiveSession, **more: object) -> str:
    """Return what the page shows beside the pictures.

    Args:
        session: What is told of.
        **more: What the session does not know: pace, viewers.
    """
    status = {
        "type": "status",
        "anchors": list(session.modules),
        "policies": list(get_args(LivePolicy)),
        "examples": session.opening.examples,
        "seed": session.seed,
        "lanes": [
            {"anchor": lane.at.anchor, "prompt": lane.at.prompt, "chunk": lane.at.state.chunk}
            for lane in session.lanes
        ],
        "max_lanes": MAX_LANES,
        "max_saves": MAX_SAVES,
        "saves": [
            {
                "save": number,
                "label": save.label,
                "lanes": [[at.anchor, at.state.chunk] for at in save.snapshot.lanes],
            }
            for number, save in session.saves.items()
        ],
        "notes": [list(note) for note in session.notes],
        **more,
    }
    return json.dumps(status, allow_nan=False)


def _hidden_panel(lane: Made) -> Tensor:
    video, hidden = lane.chunk.video_FCHW, lane.chunk.hidden_CHW
    if hidden is None:
        return torch.full_like(video, GREY)
    return hidden[None].expand_as(video)


def _numbers(lane: Made) -> dict[str, object]:
    reading = {key: _rounded(value) for key, value in lane.reading._asdict().items()}
    return {
        "anchor": lane.at.anchor,
        "prompt": lane.at.prompt,
        "chunk": lane.chunk.number,
        "ms": round(1000.0 * lane.chunk.seconds, 1),
        "hidden": lane.chunk.hidden_CHW is not None,
        "attention": None if lane.chunk.attention is None else _attention(lane.chunk.attention),
        **reading,
    }


def _attention(seen: PassMass) -> list[list[object]]:
    """Return role, frame index and share of all attention of every frame that was read."""
    shares = (seen.share_LNF * seen.context_LN[..., None]).mean((0, 1)).tolist()
    return [
        [frame.role, frame.frame_index, round(share, 4)]
        for frame, share in zip(seen.frames, shares, strict=True)
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
