"""layout: what every pass of a configuration reads, where it stands in time, and what it costs."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import yaml
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from lightning_adastate.analysis.layout import ChunkLayout, Role, lay_out
from lightning_adastate.analysis.layout_pictures import layout_picture
from lightning_adastate.analysis.layout_text import describe, event_text, joint_passes
from lightning_adastate.analysis.operations import GIGA, TERA, WAN_1_3B, Geometry, chunk_cost
from lightning_adastate.anchors import Anchor
from lightning_adastate.caches import Cache
from lightning_adastate.generation.timeline import Change
from lightning_adastate.recipes.names import CONFIG_OPTIONS, find_config, recipe_names
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.schedules import Schedule
from lightning_adastate.types import Event

DESCRIPTION = """Stream symbols through the anchor, cache and schedule of a configuration, and print for every chunk
which frames its passes attend to, at which temporal index, and what they cost. No weights, no GPU. A
configuration is a recipe (toy/adastate) or a mechanism alone (mechanisms/longlive); what it holds beside these
three is left aside. Several configurations are joined, later ones win."""

PARTS = ("anchor", "cache", "schedule")

COLUMNS: tuple[Role, ...] = ("anchor", "history", "cached", "state", "live", "ahead")

WIDTH = 150
"""Columns of text the table needs."""


class Mechanism:
    """What decides a layout.

    Args:
        anchor: What stands in front of the window.
        cache: Which frames stay, and all temporal indices.
        schedule: Chunk size and passes.
    """

    def __init__(self, anchor: Anchor, cache: Cache, schedule: Schedule) -> None:
        self.anchor = anchor
        self.cache = cache
        self.schedule = schedule


class Found(TypedDict):
    """What of a configuration file decides a layout."""

    parts: dict[str, object]
    timeline: list[object]


def layout_parser() -> ArgumentParser:
    """Return the parser of ``layout``."""
    for family in ("anchors", "caches", "schedules"):
        importlib.import_module(f"lightning_adastate.{family}")
    parser = SentenceParser(prog="lightning_adastate layout", description=DESCRIPTION)
    parser.add_argument(
        "-c", "--config", type=str | None, help="A recipe or a mechanism: toy/adastate."
    )
    parser.add_class_arguments(Mechanism, "model", sub_configs=True)
    parser.add_argument("--chunks", type=int, default=8, help="How many chunks.")
    parser.add_argument(
        "--timeline", type=list[Change], default=[], help="Events, as `generation.timeline`."
    )
    parser.add_argument("--picture", type=Path | None, help="Also draw it into this .png file.")
    parser.add_argument(
        "--geometry", type=Geometry, default=WAN_1_3B, help="Sizes the costs are for."
    )
    return parser


def read_config(path: str) -> Found:
    """Return anchor, cache, schedule and timeline of a configuration, relative paths made whole.

    Raises:
        ValueError: If there is no such file, or it holds none of them.
    """
    file = find_config(path)
    if file is None:
        raise ValueError(f"there is no config {path!r}; shipped are {', '.join(recipe_names())}")
    read = yaml.safe_load(file.read_text())
    model = read.get("model") if isinstance(read, dict) else None
    if not model or isinstance(model, str):
        raise ValueError(f"the config {path!r} has no `model` with {', '.join(PARTS)}")
    given = model.get("init_args", model)
    parts = {name: _whole(given[name], file.parent) for name in PARTS if name in given}
    if not parts:
        raise ValueError(f"the config {path!r} has no {', '.join(PARTS)} under `model`")
    timeline = (read.get("generation") or {}).get("timeline") or []
    return Found(parts=parts, timeline=timeline)


def _whole(value: object, folder: Path) -> object:
    """Return ``value`` with the files it names relative to ``folder`` under their whole paths."""
    if isinstance(value, dict):
        return {key: _whole(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner, folder) for inner in value]
    if isinstance(value, str) and value.endswith(".yaml") and (folder / value).is_file():
        return str((folder / value).resolve())
    return value


def split_configs(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the named configurations, and the other arguments."""
    configs, rest = [], []
    waiting = False
    for arg in args:
        name, equals, value = arg.partition("=")
        if waiting:
            configs.append(arg)
            waiting = False
        elif name in CONFIG_OPTIONS:
            waiting = not equals
            configs += [value] if equals else []
        else:
            rest.append(arg)
    return configs, [*rest, *(["--config"] if waiting else [])]


def timeline_of(changes: Sequence[Change]) -> list[Event]:
    """Return changes as events; each new prompt has the next number."""
    events, prompts = [], 0
    for change in changes:
        prompts += change.prompt is not None
        events.append(change.event(None if change.prompt is None else prompts))
    return events


def print_layout(chunks: Sequence[ChunkLayout], geometry: Geometry, console: Console) -> None:
    """Print one row per chunk and kind of pass, and what the last chunk costs."""
    slots = [slot for chunk in chunks for seen in chunk.passes for slot in seen.slots]
    roles = [role for role in COLUMNS if any(slot.role == role for slot in slots)]
    table = Table(title="frames @ temporal index", title_justify="left", title_style="bold")
    table.add_column("chunk")
    for head in ("passes", *roles):
        table.add_column(head, max_width=44)
    for head in ("frames", "GB", "TFLOP"):
        table.add_column(head, justify="right")
    for chunk in chunks:
        for event in chunk.events:
            table.add_row(str(chunk.index), f"[italic]event: {event_text(event)}[/italic]")
        cost = chunk_cost(geometry, chunk)
        total = [f"{cost.flops.total / TERA:.1f}"]
        for name, seen in joint_passes(chunk):
            cells = [describe([s for s in seen.slots if s.role == role]) for role in roles]
            frames = f"{seen.num_keys:.4g}"
            size = f"{seen.num_keys * geometry.frame_bytes / GIGA:.2f}"
            table.add_row(str(chunk.index), name, *cells, frames, size, *total)
            total = [""]
        table.add_section()
    console.print(table)
    cost = chunk_cost(geometry, chunks[-1])
    console.print(
        f"chunk {chunks[-1].index}: {cost.passes} passes, {cost.attended:.4g} frames attended to "
        f"({cost.attended_bytes / GIGA:.2f} GB of keys and values), {cost.kept_bytes / GIGA:.2f} GB wait for "
        f"the next chunk, {cost.flops.total / TERA:.1f} TFLOP"
    )
    console.print(
        "7' was encoded anew, 7~357 is cached at timestep 357, s2 is the hidden state of chunk 2; "
        "counts are for --geometry, by default Wan 2.1 1.3B at 480 x 832 in bfloat16"
    )


def main(args: Sequence[str] | None = None) -> int:
    """Parse, lay out, print and draw."""
    configs, rest = split_configs([] if args is None else args)
    found = [read_config(path) for path in configs]
    parser = layout_parser()
    given = [
        f"--model.{name}={json.dumps(value) if not isinstance(value, str) else value}"
        for each in found
        for name, value in each["parts"].items()
    ]
    timelines = [each["timeline"] for each in found if each["timeline"]]
    if timelines:
        given.append(f"--timeline={json.dumps(timelines[-1])}")
    built = parser.instantiate_classes(parser.parse_args([*given, *rest]))
    if built.picture is not None and built.picture.suffix != ".png":
        raise ValueError(f"`picture` must end in .png, got {str(built.picture)!r}")
    mechanism: Mechanism = built.model
    geometry: Geometry = built.geometry
    chunks = lay_out(
        mechanism.anchor,
        mechanism.cache,
        mechanism.schedule,
        built.chunks,
        timeline_of(built.timeline),
        grid=(geometry.rows, geometry.columns),
    )
    console = Console()
    print_layout(chunks, geometry, console if console.width >= WIDTH else Console(width=WIDTH))
    if built.picture is not None:
        title = configs[-1] if configs else type(mechanism.anchor).__name__
        layout_picture(built.picture, chunks, title=Path(title).stem)
        console.print(f"written to {built.picture}")
    return 0
