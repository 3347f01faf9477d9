"""plan: what a recipe will take of memory, part by part, before anything is loaded."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from typing import Literal

import torch
from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table
from torch import nn

from lightning_adastate.backbones import Backbone
from lightning_adastate.memory.parts import Phase, Sizes
from lightning_adastate.memory.passes import Precision
from lightning_adastate.memory.phases import fit_phase, generate_phase
from lightning_adastate.memory.stand_ins import without_files
from lightning_adastate.recipes.explain import explain
from lightning_adastate.recipes.loading import import_families, recipe_parser, streaming_part
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.training.base import StreamModule
from lightning_adastate.training.manual import ManualModule

GB = 1e9

CONTEXT_GB = 0.6
"""What a CUDA process holds before the first tensor. An allowance, not a measurement of yours."""

DEFAULT_FRAMES = 21
"""Latent frames of a training clip, where neither options nor the model say: those of Wan's papers."""

DESCRIPTION = """Predict what a recipe takes of memory: weights, averages, teacher, critic, optimiser, the stream's keys
and values, activations, codec and text; for generating and for training. Nothing is loaded and nothing is
allocated: the real code runs on tensors without memory. The exit code is 1 if `--device_memory` is not enough."""

NOT_COUNTED = (
    "Predicted: the most that tensors hold at a time. Not counted: what the allocator reserves and does "
    "not use (fragmentation), NCCL's buffers, workspaces of cuDNN and cuBLAS. The CUDA context is an "
    "allowance."
)


class Shape:
    """Sizes that a recipe leaves open, or that are to be other ones.

    Args:
        batch_size: Videos per process and step; ``None`` is the data's.
        streams: Streams in lock-step, for generating.
        frame_size: Height and width in pixels; ``None`` is the model's.
        num_frames: Latent frames of a training video; ``None`` is the model's, or 21.
        processes: Processes that share weights, gradients and optimiser states (FSDP); 1 shares nothing.
    """

    def __init__(
        self,
        batch_size: int | None = None,
        *,
        streams: int = 1,
        frame_size: tuple[int, int] | None = None,
        num_frames: int | None = None,
        processes: int = 1,
    ) -> None:
        for name, value in (
            ("batch_size", batch_size),
            ("streams", streams),
            ("num_frames", num_frames),
            ("processes", processes),
        ):
            if value is not None and value < 1:
                raise ValueError(f"`shape.{name}` must be 1 or more, got {value}")
        self.batch_size = batch_size
        self.streams = streams
        self.frame_size = frame_size
        self.num_frames = num_frames
        self.processes = processes


def plan_parser() -> SentenceParser:
    """Return the parser of ``plan``: every option of a recipe is accepted, and only the model's count."""
    parser = recipe_parser(prog="lightning_adastate plan", description=DESCRIPTION)
    parser.add_instantiator(_without_memory, Backbone, subclasses=True)
    parser.add_class_arguments(Shape, "shape")
    parser.add_argument(
        "--precision", type=str | None, help="As `trainer.precision`; null is the recipe's."
    )
    parser.add_argument(
        "--device_memory", type=float | None, help="GB of a device; says whether it fits."
    )
    parser.add_argument(
        "--phase",
        type=Literal["both", "generate", "fit"],
        default="both",
        help="What to predict.",
    )
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Parse, predict and print; the exit code is 1 if something asked for does not fit."""
    import_families()
    parser = plan_parser()
    asked = parser.parse_args(args)
    phases = predict(parser, asked)
    console = Console()
    for phase in phases:
        print_phase(phase, console, asked.device_memory)
    console.print(NOT_COUNTED)
    limit = asked.device_memory
    return int(limit is not None and any(total_gb(phase) > limit for phase in phases))


def predict(parser: SentenceParser, asked: Namespace) -> list[Phase]:
    """Return the phases that were asked for, of those that the recipe has.

    Raises:
        ValueError: If the configuration does not fit, or only streams and is asked for training.
    """
    if asked.get("model") is None:
        raise ValueError("`plan` needs a recipe: `--config wan1.3b/adastate`")
    trainer = asked.trainer or {}
    precision = Precision(str(asked.precision or trainer.get("precision") or "32-true"))
    shape = parser.instantiate_classes(Namespace(shape=asked.shape)).shape
    if asked.device_memory is not None and asked.device_memory <= 0.0:
        raise ValueError(f"`device_memory` must be positive, got {asked.device_memory:g}")
    phases = []
    if asked.phase != "fit":
        module = build(parser, streaming_part(asked.model, None))
        phases.append(generate_phase(module, sizes_of(asked, module, shape), precision))
    if asked.phase != "generate":
        module = build(parser, asked.model)
        if isinstance(module, ManualModule):
            with torch.device("meta"):
                module.setup("fit")
            phases.append(fit_phase(module, sizes_of(asked, module, shape), precision))
        elif asked.phase == "fit":
            raise ValueError("this recipe only streams; use `--phase generate`")
    return phases


def build(parser: SentenceParser, model: Namespace) -> StreamModule:
    """Return the module on the meta device, without any file's weights.

    Raises:
        ValueError: If the configuration does not fit.
    """
    bare = model.clone()
    _forget_files(bare.init_args)
    without_files(bare.init_args)
    try:
        module: StreamModule = parser.instantiate_classes(Namespace(model=bare)).model
    except ArgumentError as error:
        raise ValueError(explain(str(error), parser)) from error
    return module


def _forget_files(init_args: Namespace) -> None:
    """Leave out weights of the networks and their adapters, here and in the components."""
    for name, value in init_args.items(branches=True, nested=False):
        if name.endswith("weights") or name == "adapter":
            init_args[name] = None
        elif isinstance(value, Namespace) and isinstance(value.get("init_args"), Namespace):
            _forget_files(value.init_args)


def _without_memory(kind: type[nn.Module], *args: object, **options: object) -> nn.Module:
    """Build what has many weights on the meta device; small things compute when they are built."""
    with torch.device("meta"):
        return kind(*args, **options)


def sizes_of(asked: Namespace, module: StreamModule, shape: Shape) -> Sizes:
    """Return the sizes of a run: what was asked for, then the data's, the model's, or neutral ones."""
    data = asked.get("data")
    given = data.init_args.get("batch_size") if data and data.get("init_args") else None
    frames = shape.num_frames or getattr(module, "num_frames", None) or DEFAULT_FRAMES
    size = shape.frame_size or module.frame_size
    return Sizes(
        batch=shape.batch_size or (given if isinstance(given, int) else 1),
        streams=shape.streams,
        latent_shape=module.codec.latent_shape(*size),
        num_frames=frames,
        processes=shape.processes,
    )


def total_gb(phase: Phase) -> float:
    """Return what a device must have, in GB."""
    return phase.total / GB + CONTEXT_GB


def print_phase(phase: Phase, console: Console, limit: float | None) -> None:
    """Print the parts, the total, and whether it fits; if not, what would help."""
    table = Table(title=phase.name, title_justify="left", title_style="bold")
    table.add_column("part")
    table.add_column("GB", justify="right")
    table.add_column("", overflow="fold")
    for line in phase.resident:
        table.add_row(line.part, _gb(line.size), line.note)
    table.add_section()
    for line in phase.moments:
        mark = "largest of these" if line == phase.largest and len(phase.moments) > 1 else ""
        table.add_row(f"+ {line.part}", _gb(line.size), "; ".join(filter(None, (mark, line.note))))
    table.add_row("+ CUDA context", f"{CONTEXT_GB:.2f}", "allowance")
    table.add_section()
    table.add_row("total", f"{total_gb(phase):.2f}", "always there, and the largest moment")
    console.print(table)
    if limit is None:
        return
    spare = limit - total_gb(phase)
    if spare >= 0.0:
        console.print(f"{phase.name}: fits into {limit:g} GB, {spare:.1f} GB are left")
        return
    console.print(f"{phase.name}: does not fit into {limit:g} GB, {-spare:.1f} GB are missing")
    for remedy in sorted(phase.remedies, key=lambda each: -each.saves):
        if remedy.saves > 0:
            console.print(f"  {remedy.option} saves {_gb(remedy.saves)} GB")


def _gb(size: int) -> str:
    return f"{size / GB:.2f}" if size >= GB / 100 or not size else f"{size / GB:.6f}"
