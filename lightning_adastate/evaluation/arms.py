"""One arm of a comparison."""

# Shapes: B episodes, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_adastate.anchors import Anchor
from lightning_adastate.caches import Cache
from lightning_adastate.evaluation.swap_probe import SwapResult
from lightning_adastate.metrics import PanScores
from lightning_adastate.metrics.pan_identity import HeroCycle
from lightning_adastate.noise import NoiseSource
from lightning_adastate.schedules import Schedule
from lightning_adastate.worlds import PanReading


@dataclass(frozen=True)
class Variation:
    """What an arm has of its own; ``None`` is the model's.

    Args:
        anchor: What stands in front of the window.
        cache: Which frames stay, and all temporal indices.
        schedule: Chunk size and passes; all arms must have the model's chunk size.
        noise: Source of the noise.
        weights: Backbone weights: a file, or a name shipped with the package.
    """

    anchor: Anchor | None = None
    cache: Cache | None = None
    schedule: Schedule | None = None
    noise: NoiseSource | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Arm:
    """What one arm did.

    Args:
        video_BFCHW: The stream, given frames first.
        reading: What it shows.
        scores: Horizon in frames -> scores of the stream cut there.
        cycles: Every hide of the hero, stream by stream; empty where no hero hides.
        swap: What a swap of the anchor's contents between streams showed, if it was asked for.
    """

    video_BFCHW: Tensor
    reading: PanReading
    scores: Mapping[int, PanScores]
    cycles: Sequence[Sequence[HeroCycle]] = ()
    swap: SwapResult | None = None
