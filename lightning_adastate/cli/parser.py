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
    """jsonargparse's parser with our errors and our rule for a change of class."""

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

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one sentence and leave with exit code 2."""
        # Nested parsers rely on the exception; a hundred lines of usage would bury the sentence.
        if not self.exit_on_error or os.environ.get("JSONARGPARSE_DEBUG") == "true":
            super().error(message, ex)
        parser = cast(ArgumentParser, getattr(ex, "subcommand_parser", None) or self)
        sys.stderr.write(f"error: {explain(message, parser)}\n")
        raise SystemExit(2)


def explain(message: str, parser: ArgumentParser) -> str:
    """Return one sentence for a message of this parser."""
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        options = [option for action in parser._actions for option in action.option_strings]
        given = found[1].partition("=")[0]
        head = given.split(".")[0]
        heads = [option.split(".")[0] for option in options]
        hint = nearest(given, options) if head in heads else nearest(head, heads)
        return f"there is no option {given}{hint or f'; see {parser.prog} --help'}"
    if found := re.match(r".*File does not exist: '([^']+)'", message, re.DOTALL):
        names = recipe_names()
        name = os.path.relpath(found[1])
        return f"there is no config file {name!r}; shipped are {', '.join(names)}{nearest(name, names)}"
    if found := re.match(r"the following arguments are required: (.*)", message):
        return f"{found[1]} must be given; name a recipe with --config, for example toy/adastate"
    if message.startswith("Problems parsing config:"):
        return "the config is no valid YAML: " + " ".join(message.split()[3:])
    types = {action.dest: getattr(action, "_typehint", None) for action in parser._actions}
    return one_sentence(message, types)
