"""Which paths a recipe takes on a device, without loading anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jsonargparse import Namespace
from torch import nn

from lightning_adastate.backbones import WanTransformer
from lightning_adastate.memory.planning import build
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.streaming.speed import DeviceFacts, Speed, SpeedPlan, Wishes


@dataclass(frozen=True)
class RecipePaths:
    """What a recipe would do.

    Args:
        precision: As ``trainer.precision``.
        kernel: The attention kernel of its passes.
        codec: Its codec's class and path.
        plan: Its fast paths.
    """

    precision: str
    kernel: str
    codec: str
    plan: SpeedPlan


def recipe_paths(
    parser: SentenceParser, asked: Namespace, facts: DeviceFacts, speed: Speed
) -> RecipePaths:
    """Return what a parsed recipe would do on a device.

    Args:
        parser: Knows how the model is built.
        asked: What it parsed.
        facts: What is known of the device.
        speed: As ``generation.speed``.

    Raises:
        ValueError: If the configuration does not fit.
    """
    precision = str((asked.trainer or {}).get("precision") or "32-true")
    facts = replace(facts, autocast=precision.endswith("-mixed"))
    module = build(parser, asked.model)
    codec: Any = asked.model.init_args.codec
    wishes = replace(
        Wishes.of(module, (asked.generation or {}).get("decode", "auto")),
        compile_passes=codec.init_args.get("compile_passes", "never"),
    )
    plan = SpeedPlan.decide(speed, facts, wishes)
    path = codec.init_args.get("path")
    name = codec.class_path.rpartition(".")[2]
    return RecipePaths(
        precision,
        _kernel(module.streamer.backbone, precision) if speed == "auto" else "sdpa",
        name if path is None else f"{name}, path {path}",
        plan,
    )


def _kernel(backbone: nn.Module, precision: str) -> str:
    """Return the first kernel that takes a stream's tensors; all but PyTorch's want half precision."""
    nets = [part for part in backbone.modules() if isinstance(part, WanTransformer)]
    names = nets[0].kernels if nets else ("sdpa",)
    half = not precision.startswith("32")
    return next((name for name in names if name == "sdpa" or half), "sdpa")
