"""The one file that touches private parts of jsonargparse: three rules it has no setting for, and what a parser knows.

A change of class takes no argument along; an empty mapping under a key that does not exist is refused; a message can
list the options and classes that there are.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jsonargparse._typehints as typehints
from jsonargparse import ArgumentParser, Namespace

from lightning_adastate.recipes.help_text import NAMED, OptionGroup, OptionHelp, ordered

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


class HelpAll(argparse._HelpAction):
    """Print the whole help, and leave. It is of argparse's kind so that the help of a class does not list it."""

    def __call__(self, parser: Any, *args: object) -> None:
        """Print and leave."""
        parser.print_help_all()
        parser.exit()


class StrictParser(ArgumentParser):
    """jsonargparse's parser that neither inherits arguments across classes nor passes over empty mappings."""

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
            known = [action.dest for action in self._actions if not action.dest.endswith(".help")]
            for key in _empty_mappings(cfg, known):
                raise TypeError(f"Option '{key}' is not accepted")
        return super()._apply_actions(cfg, parent_key, *args, **kwargs)


def option_types(parser: ArgumentParser) -> dict[str, object]:
    """Return the annotation of every option by its name; ``None`` where it has none."""
    return {action.dest: getattr(action, "_typehint", None) for action in parser._actions}


def option_strings(parser: ArgumentParser) -> list[str]:
    """Return every option as it is written on the command line."""
    return [option for action in parser._actions for option in action.option_strings]


def positionals(parser: ArgumentParser) -> list[str]:
    """Return the names of arguments that stand by themselves on the command line."""
    return [action.dest for action in parser._actions if not action.option_strings]


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


def has_help(parser: ArgumentParser) -> bool:
    """Tell whether a parser answers to ``--help``; those that print the arguments of a class do not."""
    return any(isinstance(action, argparse._HelpAction) for action in parser._actions)


def sort_groups(parser: ArgumentParser, verb: str) -> None:
    """Put the groups of options into the order they are shown in."""
    groups = parser._action_groups
    keys = [_key_of(group._group_actions) for group in groups]
    parser._action_groups = [groups[place] for place in ordered(keys, verb)]


def option_groups(parser: ArgumentParser) -> list[OptionGroup]:
    """Return what a help says of a parser's options, in its order of groups."""
    found = []
    for group in parser._action_groups:
        shown = [each for each in group._group_actions if each.help != argparse.SUPPRESS]
        actions = [each for each in shown if not each.dest.endswith(".help")]
        if actions:
            options = tuple(_option_help(action) for action in actions)
            key, title = _key_of(actions), group.title or "options"
            found.append(OptionGroup(key, title, options, len(actions) < len(shown)))
    return found


def _key_of(actions: Sequence[argparse.Action]) -> str:
    """Return the first part that options have in common, or nothing."""
    heads = {string.lstrip("-").split(".")[0] for a in actions for string in a.option_strings[-1:]}
    return heads.pop() if len(heads) == 1 and len(actions) > 1 else ""


def _option_help(action: argparse.Action) -> OptionHelp:
    """Return what a help says of one option."""
    strings = [string for string in action.option_strings if not string.endswith("+")]
    name = ", ".join(strings) or action.dest
    if strings and action.nargs != 0:
        choices = action.metavar if isinstance(action.metavar, str) else ""
        short = choices.startswith("{") and len(name) + len(choices) < NAMED
        name += (
            f" {choices}" if short else f" {strings[-1].rpartition('.')[2].lstrip('-').upper()}"
        )
    default = action.default
    shown = isinstance(default, (str, int, float)) and default != argparse.SUPPRESS
    written = str(default).lower() if isinstance(default, bool) else str(default)
    text = "" if action.help is None else str(action.help).replace("%%", "%")
    return OptionHelp(name, text, written if shown else "")


def subcommand_parser(parser: ArgumentParser, name: str) -> ArgumentParser:
    """Return the parser of a subcommand, or the parser itself where it has none."""
    subcommands = getattr(parser, "_subcommands_action", None)
    return (
        parser if subcommands is None else cast(ArgumentParser, subcommands._name_parser_map[name])
    )
