"""A mechanism from a configuration: anchor, cache, schedule and timeline; the rest of a recipe is left aside."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import yaml
from jsonargparse import Namespace

from lightning_adastate.anchors import Anchor
from lightning_adastate.caches import Cache
from lightning_adastate.generation.timeline import Change
from lightning_adastate.recipes.explain import in_sentences
from lightning_adastate.recipes.names import CONFIG_OPTIONS, config_file, resolve_arguments
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.schedules import Schedule
from lightning_adastate.types import Event

PARTS = ("anchor", "cache", "schedule")


class Parts:
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


class Mechanism(Parts):
    """What decides a layout, and what happens on the way.

    Args:
        parts: Anchor, cache and schedule.
        timeline: Switches, flushes and cuts.
    """

    def __init__(self, parts: Parts, timeline: Sequence[Event]) -> None:
        super().__init__(parts.anchor, parts.cache, parts.schedule)
        self.timeline = tuple(timeline)


class Found(TypedDict):
    """What of a configuration file decides a layout."""

    parts: dict[str, object]
    timeline: list[object]


def load_mechanism(config: str, overrides: Sequence[str] = ()) -> Mechanism:
    """Build anchor, cache, schedule and timeline of a configuration; no weights are needed.

    ``lay_out(m.anchor, m.cache, m.schedule, num_chunks, m.timeline)`` is then what ``layout --config`` prints.

    Args:
        config: A recipe (``toy/adastate``) or a mechanism (``mechanisms/longlive``), by file or name.
        overrides: As on the command line, for example ``["--model.anchor.num_frames=2"]``.

    Raises:
        ValueError: If there is no such configuration, or it does not fit.
    """
    parser = mechanism_parser(exit_on_error=False)
    with in_sentences(parser):
        given = arguments_of([config], resolve_arguments(overrides))
        return build_mechanism(parser, parser.parse_args(given))


def mechanism_parser(
    *, exit_on_error: bool = True, description: str | None = None
) -> SentenceParser:
    """Return the parser of a mechanism: only what decides a layout is an option."""
    for family in ("anchors", "caches", "schedules"):
        importlib.import_module(f"lightning_adastate.{family}")
    parser = SentenceParser(
        prog="lightning_adastate layout", description=description, exit_on_error=exit_on_error
    )
    parser.add_argument(
        "-c", "--config", type=str | None, help="A recipe or a mechanism: toy/adastate."
    )
    parser.add_class_arguments(Parts, "model", sub_configs=True)
    parser.add_argument(
        "--timeline", type=list[Change], default=[], help="Events, as `generation.timeline`."
    )
    return parser


def build_mechanism(parser: SentenceParser, parsed: Namespace) -> Mechanism:
    """Build a parsed mechanism."""
    built = parser.instantiate_classes(parsed)
    return Mechanism(built.model, timeline_of(built.timeline))


def arguments_of(configs: Sequence[str], rest: Sequence[str] = ()) -> list[str]:
    """Return the arguments that several configurations and other arguments amount to; later ones win."""
    found = [read_config(path) for path in configs]
    given = [
        f"--model.{name}={json.dumps(value) if not isinstance(value, str) else value}"
        for each in found
        for name, value in each["parts"].items()
    ]
    timelines = [each["timeline"] for each in found if each["timeline"]]
    if timelines:
        given.append(f"--timeline={json.dumps(timelines[-1])}")
    return [*given, *rest]


def read_config(path: str) -> Found:
    """Return anchor, cache, schedule and timeline of a configuration, relative paths made whole.

    Raises:
        ValueError: If there is no such file, or it holds none of them.
    """
    file = config_file(path)
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
