"""Everything that changes what a run makes, by name: two runs with equal settings make equal files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeAlias

import torch

from lightning_adastate.files import content_mark
from lightning_adastate.generation.opening import Beginning, video_options
from lightning_adastate.generation.options import Generation
from lightning_adastate.generation.timeline import read_lines
from lightning_adastate.streaming.pipeline import PixelStreaming
from lightning_adastate.weights.fingerprint import weights_fingerprint

Setting: TypeAlias = str | int | float | bool | list["Setting"] | dict[str, "Setting"] | None

UNKNOWN = "unknown"
"""Name of the setting that says why nobody can tell whether two runs are the same."""


def settings_of(
    module: PixelStreaming, generation: Generation, beginning: Beginning
) -> dict[str, Setting]:
    """Return the settings of a run, in the order in which a difference is named.

    Weights are read; what only changes when things are done is left out. The text encoder is left out as well:
    its embeddings are in the state that is continued. A component without a stable description (a lambda as its
    argument) can stream, but nobody can tell whether it is the same; the setting ``UNKNOWN`` says so.
    """
    options = video_options(module, generation)
    device = module.device.type
    mixed = torch.is_autocast_enabled(device)
    return {
        "prompts": list(beginning.prompts or []),
        "seed": generation.seed if beginning.saved is not None else generation.seed or 0,
        "num_chunks": beginning.num_chunks,
        "start": generation.start and content_mark(generation.start),
        "state_in": generation.state_in and content_mark(generation.state_in),
        "timeline": _timeline(beginning),
        "state_video": generation.state_video and Path(generation.state_video).name,
        "latents": generation.latents and Path(generation.latents).name,
        **options._asdict(),
        "frame_size": list(module.frame_size),
        **_descriptions(module),
        "weights": weights_fingerprint(module.streamer),
        "codec weights": weights_fingerprint(module.codec),
        "device": device,
        "precision": str(torch.get_autocast_dtype(device)) if mixed else "as the weights",
    }


def _descriptions(module: PixelStreaming) -> dict[str, Setting]:
    try:
        return {**module.streamer.descriptions, "codec": module.codec.description}
    except ValueError as error:
        return {UNKNOWN: str(error)}


def _timeline(beginning: Beginning) -> list[Setting]:
    """Return what happens on the way, with the text of prompts that stand in files."""
    return [
        {
            **dataclasses.asdict(change),
            "prompt": change.prompt and list(read_lines(change.prompt, beginning.num_streams)),
        }
        for change in beginning.timeline
    ]
