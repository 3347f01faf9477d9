"""Plan a recipe: build it without memory, rehearse what it does, and say what that takes."""

from __future__ import annotations

import contextlib
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule
from torch import nn

from lightning_adastate.backbones import Backbone
from lightning_adastate.memory.phases import Phase, phase_of, with_remedies
from lightning_adastate.memory.rehearsal import (
    Sizes,
    extrapolated,
    rehearse_fit,
    rehearse_stream,
)
from lightning_adastate.memory.stand_ins import without_files
from lightning_adastate.memory.watch import Record
from lightning_adastate.recipes.explain import explain, in_sentences
from lightning_adastate.recipes.loading import import_families, recipe_parser
from lightning_adastate.recipes.names import recipe_arguments
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.training.base import StreamModule

GB = 1e9

CONTEXT_GB = 0.6
"""What a CUDA process holds before the first tensor. An allowance, not a measurement of yours."""

DEFAULT_FRAMES = 21
"""Latent frames of a training clip, where neither options nor the model say: those of Wan's papers."""

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true")

Verb = Literal["generate", "fit"]

REMEDIES = {
    ("backward", "chunks"): "chunks",
    ("ema_decay", None): "null",
    ("teacher_dtype", "bfloat16"): "bfloat16",
    ("teacher_offload", True): "true",
}
"""Options of stages that may help, where a stage has them, and how they are written."""

FEWER = (2, 4, 8)
"""Numbers of processes that are offered as a remedy."""


@dataclass(frozen=True)
class Shape:
    """Sizes that a recipe leaves open, or that are to be other ones.

    Args:
        batch_size: Videos per process and step; ``None`` is the data's.
        streams: Streams in lock-step, for generating.
        frame_size: Height and width in pixels; ``None`` is the model's.
        num_frames: Latent frames of a training video; ``None`` is the model's, or 21.
        processes: Processes that share weights, gradients and optimiser states (FSDP); 1 shares nothing.
    """

    batch_size: int | None = None
    streams: int = 1
    frame_size: tuple[int, int] | None = None
    num_frames: int | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "streams", "num_frames", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`shape.{name}` must be 1 or more, got {value}")


@dataclass(frozen=True)
class Request:
    """What is to be planned.

    Args:
        parser: Knows how the model is built.
        model: Its configuration.
        rows: Videos per step, as the data says.
        precision: As ``trainer.precision``.
        shape: Sizes.
        device_memory: GB of a device; what does not fit gets remedies.
    """

    parser: SentenceParser
    model: Namespace
    rows: int
    precision: str
    shape: Shape
    device_memory: float | None = None


def plan(
    recipe: str,
    *,
    overrides: Sequence[str] = (),
    precision: str | None = None,
    shape: Shape | None = None,
    phase: Literal["both", "generate", "fit"] = "both",
    device_memory: float | None = None,
) -> list[Phase]:
    """Return what a recipe takes of memory for generating and for training. No file of weights is read.

    Args:
        recipe: A recipe's file, or the name of a shipped one (``toy/adastate``).
        overrides: As on the command line, for example ``["--model.anchor=EMAAnchor"]``.
        precision: As ``trainer.precision``; ``None`` is the recipe's.
        shape: Sizes that are to be other ones.
        phase: What to predict.
        device_memory: GB of a device; a phase that needs more comes with remedies.

    Raises:
        ValueError: If there is no such recipe, or it does not fit, or only streams and is asked for training.
    """
    import_families()
    parser = recipe_parser(exit_on_error=False)
    with in_sentences(parser):
        asked = parser.parse_args(recipe_arguments(recipe, overrides))
    return phases(parser, asked, precision, shape or Shape(), phase, device_memory)


def phases(
    parser: SentenceParser,
    asked: Namespace,
    precision: str | None,
    shape: Shape,
    phase: Literal["both", "generate", "fit"],
    device_memory: float | None,
) -> list[Phase]:
    """Return what a parsed recipe takes; see ``plan``."""
    if asked.get("model") is None:
        raise ValueError("`plan` needs a recipe: `--config wan1.3b/adastate`")
    if device_memory is not None and device_memory <= 0.0:
        raise ValueError(f"`device_memory` must be positive, got {device_memory:g}")
    precision = str(precision or (asked.trainer or {}).get("precision") or "32-true")
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    data = asked.get("data")
    rows = data.init_args.get("batch_size") if data and data.get("init_args") else None
    rows = shape.batch_size or (rows if isinstance(rows, int) else 1)
    request = Request(parser, asked.model, rows, precision, shape, device_memory)
    found = []
    if phase != "fit":
        found.append(of_verb(request, "generate"))
    if phase != "generate":
        kind = type(build(parser, asked.model))
        if kind.training_step is not LightningModule.training_step:
            found.append(of_verb(request, "fit"))
        elif phase == "fit":
            raise ValueError("this recipe only streams; use `--phase generate`")
    return found


def of_verb(request: Request, verb: Verb) -> Phase:
    """Return a verb's memory, with remedies where the device has less."""
    module, record = rehearsed(request, verb)
    shares = request.shape.processes if verb == "fit" else 1
    phase = phase_of(verb, module, record, shares)
    if request.device_memory is None or total_gb(phase) <= request.device_memory:
        return phase
    others = {}
    for said, other in alternatives(request, verb).items():
        with contextlib.suppress(ValueError):  # the stage says no to it
            others[said] = phase_of(verb, *rehearsed(other, verb), shares)
    if verb == "fit" and shares == 1:
        for count in FEWER:
            with contextlib.suppress(ValueError):  # what waits elsewhere cannot be shared
                said = f"--shape.processes {count} (FSDP)"
                others[said] = phase_of(verb, module, record, count)
    return with_remedies(phase, others)


def alternatives(request: Request, verb: Verb) -> dict[str, Request]:
    """Return what may take less, by the option that says it."""
    if verb == "generate":
        other = replace(request, precision="bf16-true")
        return {} if request.precision == "bf16-true" else {"--precision bf16-true": other}
    found, given = {}, request.model.init_args
    for (name, value), said in REMEDIES.items():
        if name in given and given[name] != value:
            found[f"--model.{name} {said}"] = replace(
                request, model=changed(request.model, {name: value})
            )
    return found


def changed(model: Namespace, options: dict[str, object]) -> Namespace:
    """Return a configuration with other values of the options that it has."""
    other = model.clone()
    for name, value in options.items():
        if name in other.init_args:
            other.init_args[name] = value
    return other


def rehearsed(request: Request, verb: Verb) -> tuple[StreamModule, Record]:
    """Return the module as it is built, and the record of a verb."""
    shape = request.shape
    sizes = {"frame_size": shape.frame_size, "num_frames": shape.num_frames}
    model = changed(request.model, {name: size for name, size in sizes.items() if size})
    if verb == "generate":
        module = build(request.parser, changed(model, {"ema_decay": None}))
        streams = Sizes(shape.streams)
        return module, extrapolated(
            module, partial(rehearse_stream, sizes=streams, precision=request.precision)
        )
    module = build(request.parser, model)
    with torch.device("meta"):
        module.setup("fit")
    frames = shape.num_frames or getattr(module, "num_frames", None) or DEFAULT_FRAMES
    videos = Sizes(request.rows, frames)
    return module, extrapolated(
        module, partial(rehearse_fit, sizes=videos, precision=request.precision)
    )


def build(parser: SentenceParser, model: Namespace) -> StreamModule:
    """Return the module, its networks on the meta device, without any file's weights.

    Raises:
        ValueError: If the configuration does not fit.
    """
    bare = model.clone()
    forget_files(bare.init_args)
    without_files(bare.init_args)
    parser.add_instantiator(_on_meta, Backbone, subclasses=True)
    try:
        wanted = Namespace(model=bare)
        module: StreamModule = parser.instantiate_classes(wanted).model
    except ArgumentError as error:
        raise ValueError(explain(str(error), parser)) from error
    return module


def forget_files(init_args: Namespace) -> None:
    """Leave out weights of the networks and their adapters, here and in the components."""
    for name, value in init_args.items(branches=True, nested=False):
        if name.endswith("weights") or name == "adapter":
            init_args[name] = None
        elif isinstance(value, Namespace) and isinstance(value.get("init_args"), Namespace):
            forget_files(value.init_args)


def _on_meta(kind: type[nn.Module], *args: object, **options: object) -> nn.Module:
    with torch.device("meta"):
        return kind(*args, **options)


def total_gb(phase: Phase) -> float:
    """Return what a device must have, in GB."""
    return phase.total / GB + CONTEXT_GB
