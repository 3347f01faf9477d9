"""Single items of lists on the command line: ``--model.anchor.anchors.1.decay=0.9``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jsonargparse import Namespace

INSTEAD = ("--help", "-h", "--help_all", "--print_config")
"""Options after which nothing is run; they wait until the lists are put together."""


@dataclass(frozen=True)
class ItemOption:
    """An option that names an item of a list.

    Args:
        parts: What stands between the dots.
        value: What it is set to.
    """

    parts: tuple[str, ...]
    value: str

    @property
    def option(self) -> str:
        """Return it as it was written."""
        return "--" + ".".join(self.parts)


def with_list_items(
    args: Sequence[str],
    parse: Callable[[Sequence[str]], Namespace],
    options_of: Callable[[str | None], Sequence[str]],
) -> Sequence[str]:
    """Return arguments in which options of single items have become the options that hold the lists, as a whole.

    The lists are those that the other arguments amount to, whatever their order, so an item counts last. What a
    nested option of jsonargparse is given loses its nulls on the way, hence the whole.

    Args:
        args: Arguments.
        parse: Parses arguments without such options.
        options_of: Returns the options of a subcommand, or of the parser itself.

    Raises:
        ValueError: If there is no such item.
    """
    others, asked = _split(args)
    if not asked or any(arg in INSTEAD[:3] for arg in args):
        return args
    parsed = parse([arg for arg in others if not arg.startswith(INSTEAD)])
    verb = parsed.get("subcommand")
    plain = _plain(parsed[verb] if verb else parsed)
    options = options_of(verb)
    changed: dict[str, None] = {}
    for item in asked:
        if not _has_list(plain, item):
            others = [*others, f"{item.option}={item.value}"]  # a name that is a number
            continue
        _set(plain, item.parts, item)
        holders = [each for each in options if f"{item.option}.".startswith(f"{each}.")]
        changed[max(holders, key=len)] = None
    return [*others, *(f"{option}={_text(plain, option)}" for option in changed)]


def _split(args: Sequence[str]) -> tuple[list[str], list[ItemOption]]:
    """Return the other arguments, and the options with a number between their dots."""
    others: list[str] = []
    asked: list[ItemOption] = []
    waiting: tuple[str, ...] = ()
    for arg in args:
        if waiting:
            asked.append(ItemOption(waiting, arg))
            waiting = ()
            continue
        option, equals, value = arg.partition("=")
        parts = tuple(option.removeprefix("--").split("."))
        if not option.startswith("--") or not any(part.isdigit() for part in parts[1:]):
            others.append(arg)
        elif equals:
            asked.append(ItemOption(parts, value))
        else:
            waiting = parts
    return [*others, *(["--" + ".".join(waiting)] if waiting else [])], asked


def _plain(value: object) -> object:
    """Return a configuration as dictionaries, lists and values."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        own = {key: inner for key, inner in value.items() if not str(key).startswith("__")}
        return {key: _plain(inner) for key, inner in own.items()}  # without the parser's notes
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _inside(holder: object, part: str) -> tuple[object, str | int] | None:
    """Return where a part of a name stands: the arguments of a class stand below ``init_args``."""
    if isinstance(holder, list):
        return (holder, int(part)) if part.isdigit() else None
    if not isinstance(holder, dict):
        return None
    if part in holder:
        return holder, part
    arguments = holder.get("init_args")
    return (arguments, part) if isinstance(arguments, dict) and part in arguments else None


def _has_list(plain: object, item: ItemOption) -> bool:
    """Tell whether there is a list on the way.

    Raises:
        ValueError: If the list has no item of that number.
    """
    value = plain
    for depth, part in enumerate(item.parts):
        if isinstance(value, list):
            name = ".".join(item.parts[:depth])
            if not part.isdigit() or int(part) >= len(value):
                there = f"0 to {len(value) - 1}" if value else "none"
                raise ValueError(
                    f"{item.option}: `{name}` has no item {part}; its items are {there}, and "
                    f"--{name}+=VALUE adds one"
                )
            return True
        found = _inside(value, part)
        if found is None:
            return False
        value = found[0][found[1]]  # type: ignore[index]
    return False


def _set(holder: object, parts: Sequence[str], item: ItemOption) -> None:
    """Set the value that the parts lead to; another class starts from its own defaults."""
    found = _inside(holder, parts[0])
    last = len(parts) == 1
    if last and isinstance(holder, dict) and parts[0] == "class_path":
        holder.pop("init_args", None)
    if found is None:
        if isinstance(holder, dict):  # not there: the parser will say what is
            arguments = holder.setdefault("init_args", {}) if "class_path" in holder else holder
            arguments[".".join(parts)] = _value(item.value)
            return
        raise ValueError(f"{item.option}: there is nothing named {parts[0]!r}")
    place, key = found
    if isinstance(place, list) and isinstance(key, int) and key >= len(place):
        raise ValueError(f"{item.option}: there is no item {key}; there are {len(place)}")
    if last:
        place[key] = _value(item.value)  # type: ignore[index]
        return
    _set(place[key], parts[1:], item)  # type: ignore[index]


def _value(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _text(plain: object, option: str) -> str:
    value = plain
    for part in option.removeprefix("--").split("."):
        found = _inside(value, part)
        assert found is not None
        value = found[0][found[1]]  # type: ignore[index]
    return json.dumps(value)
