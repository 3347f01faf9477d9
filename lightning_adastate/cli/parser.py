"""The parsers: errors in one sentence, and a change of class takes no argument along."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, cast

import jsonargparse._typehints as typehints
from jsonargparse import ArgumentParser, Namespace

from lightning_adastate.cli.errors import nearest, one_sentence
from lightning_adastate.cli.shipped import recipe_names

EXAMPLES = {"replay": "replay/longlive", "compare": "toy/compare"}
"""Shipped recipes of the verbs that do not take a training recipe."""

DISCARD = "discard_init_args_on_class_path_change"


def _discard_all(parser_or_action: object, before: Any, after: Any) -> None:
    """Forget every argument of the class that was, as if its successor were given alone."""
    del parser_or_action
    if before and "init_args" in before and before["class_path"] != after["class_path"]:
        before["init_args"] = Namespace()
        before.pop("dict_kwargs", None)


@contextlib.contextmanager
def nothing_inherited() -> Iterator[None]:
    """Make a change of class start from the new class's own defaults while this is open.

    jsonargparse keeps arguments of the same name: ``EMAAnchor(num_frames=3)`` followed by
    ``StaticAnchor`` would give ``StaticAnchor(num_frames=3)``, so an ablation would silently inherit
    the settings of what it replaces. There is no setting for it, hence the exchange of one function.
    """
    before = getattr(typehints, DISCARD)
    setattr(typehints, DISCARD, _discard_all)
    try:
        yield
    finally:
        setattr(typehints, DISCARD, before)


class SentenceParser(ArgumentParser):
    """jsonargparse's parser with our errors and our rule for a change of class.

    Options are written out: an abbreviation would change its meaning when an option is added.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: Namespace | None = None,
        **kwargs: Any,
    ) -> Namespace:
        """Parse command-line arguments."""
        with nothing_inherited():
            return super().parse_args(args, namespace, **kwargs)

    def parse_object(
        self, cfg_obj: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> Namespace:
        """Parse a configuration given as a dictionary."""
        with nothing_inherited():
            return cast(Namespace, super().parse_object(cfg_obj, *args, **kwargs))

    def _apply_actions(
        self, cfg: Namespace | dict[str, Any], parent_key: str = "", *args: Any, **kwargs: Any
    ) -> Namespace:
        """Refuse what jsonargparse passes over: an empty mapping under a key that does not exist."""
        if not parent_key and getattr(self, "_subcommands_action", None) is None:
            known = [action.dest for action in self._actions]
            for key in _empty_mappings(cfg, known):
                raise TypeError(f"Option '{key}' is not accepted")
        return cast(Namespace, super()._apply_actions(cfg, parent_key, *args, **kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one sentence and leave with exit code 2."""
        # Nested parsers rely on the exception; a hundred lines of usage would bury the sentence.
        if not self.exit_on_error or os.environ.get("JSONARGPARSE_DEBUG") == "true":
            super().error(message, ex)
        parser = cast(ArgumentParser, getattr(ex, "subcommand_parser", None) or self)
        sys.stderr.write(f"error: {explain(message, parser)}\n")
        raise SystemExit(2)


def _empty_mappings(
    config: Namespace | dict[str, Any], known: Sequence[str], above: str = ""
) -> Iterator[str]:
    """Yield the keys of empty mappings that are no option's and lead to none."""
    # A flat dictionary may hold dotted keys, which only a namespace takes apart.
    for name, value in vars(Namespace(config) if isinstance(config, dict) else config).items():
        key = f"{above}{name}"
        is_branch = any(dest.startswith(f"{key}.") for dest in known)
        if not isinstance(value, (dict, Namespace)):
            continue
        if not is_branch and key.rstrip("+") in known:
            continue  # the option's own parser looks into its value
        if not (value if isinstance(value, dict) else vars(value)) and not is_branch:
            yield key
        yield from _empty_mappings(value, known, f"{key}.")


def explain(message: str, parser: ArgumentParser) -> str:
    """Return one sentence for a message of this parser."""
    types = {action.dest: getattr(action, "_typehint", None) for action in parser._actions}
    example = EXAMPLES.get(parser.prog.split()[-1], "toy/adastate")
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        options = [option for action in parser._actions for option in action.option_strings]
        given = found[1].partition("=")[0]
        head = given.split(".")[0]
        heads = [option.split(".")[0] for option in options]
        hint = nearest(given, options) if head in heads else nearest(head, heads)
        return f"there is no option {given}{hint or f'; see {parser.prog} --help'.replace(' [options]', '')}"
    if found := re.match(r".*File does not exist: '([^']+)'", message, re.DOTALL):
        names = recipe_names()
        name = os.path.relpath(found[1])
        return f"there is no config file {name!r}; shipped are {', '.join(names)}{nearest(name, names)}"
    if found := re.match(r"the following arguments are required: (.*)", message):
        names = ", ".join(
            re.sub(r"^(fit|validate|test|predict|generate)\.", "", name)
            for name in found[1].split(", ")
        )
        return f"{names} must be given; name a recipe with --config, for example {example}"
    if message.startswith("Problems parsing config:"):
        return "the config is no valid YAML: " + " ".join(message.split()[3:])
    if found := re.match(r"Unexpected config: (.*)", message, re.DOTALL):
        text = " ".join(found[1].split()) or "nothing"
        return f"a config must be a mapping of options to values, got {text}"
    if found := re.match(
        r"(?:Subcommand|Group) '(\w+)' does not accept option '([^']+)'", message
    ):
        where = f"{found[1]}." if message.startswith("Group") else ""
        return _not_accepted(where + found[2], list(types), example)
    if found := re.match(r"Option '([^']+)' is not accepted$", message):
        return _not_accepted(found[1], list(types), example)
    return one_sentence(message, types)


def _not_accepted(key: str, known: Sequence[str], example: str) -> str:
    """Return what to say about a config's key that no option has."""
    parts = key.split(".")
    if parts[0] in ("class_path", "init_args"):
        return "this config is a component's file; give it as the component: --model.anchor=FILE"
    if "init_args" in parts[:2]:
        return (
            f"`{parts[0]}` has no class_path and init_args here; "
            f"name a recipe of this verb, for example {example}"
        )
    heads = sorted({name.split(".")[0] for name in known})
    below = [name for name in known if name.startswith(f"{parts[0]}.")]
    hint = nearest(key, below) if parts[0] in heads else nearest(parts[0], heads)
    return f"there is no option {key!r}{hint}"
