"""The parser of every verb: errors in one sentence, and a change of class takes no argument along."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import IO, Any, NoReturn, cast

from jsonargparse import ArgumentParser, Namespace

from lightning_adastate.components.base import constructor_defaults
from lightning_adastate.recipes.explain import explain
from lightning_adastate.recipes.help_text import LINES, short_help
from lightning_adastate.recipes.list_items import with_list_items
from lightning_adastate.recipes.private_hooks import (
    HelpAll,
    StrictParser,
    has_help,
    option_groups,
    option_strings,
    positionals,
    sort_groups,
    subcommand_parser,
)

MAY_BE_INFINITE = ("max_weight",)
"""Arguments for which infinity means that there is no limit."""


_parsing: ContextVar[bool] = ContextVar("parsing", default=False)
"""Whether a parser is at work: those of components work inside, and know only the end of a key."""


class SentenceParser(StrictParser):
    """jsonargparse's parser with our errors and our rule for a change of class.

    Options are written out: an abbreviation would change its meaning when an option is added.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.add_argument("--help_all", action=HelpAll, help="Show every option, and exit.")

    def print_help(self, file: IO[str] | None = None) -> None:  # type: ignore[override]
        """Print a help of one screen if there is more; ``print_help_all`` prints it whole."""
        if not has_help(self):  # the arguments of a class
            super().print_help(file)
            return
        sort_groups(self, self.prog.split()[-1])
        text = self.format_help()
        if text.count("\n") > LINES:
            prog = self.prog.replace(" [options]", "")
            text = short_help(prog, positionals(self), self.description or "", option_groups(self))
        (file or sys.stdout).write(text)

    def print_help_all(self) -> None:
        """Print all options, those of other people behind ours."""
        sort_groups(self, self.prog.split()[-1])
        super().print_help()

    def parse_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: Namespace | None = None,
        **kwargs: Any,
    ) -> Namespace:
        """Parse command-line arguments; numbers must be finite, and single items of lists can be set."""
        outermost = not _parsing.get()
        before = _parsing.set(True)
        try:
            if outermost and args is not None:
                args = self._with_list_items(args)
            parsed = super().parse_args(args, namespace, **kwargs)
        finally:
            _parsing.reset(before)
        for key, value, class_path in _numbers(parsed) if outermost else ():
            name = key.rpartition(".")[2]
            if math.isfinite(value) or name in MAY_BE_INFINITE:
                continue
            if not _is_default(class_path, name, value):
                self.error(f"{key}: expected a finite number, got {value}")
        return parsed

    def _with_list_items(self, args: Sequence[str]) -> Sequence[str]:
        try:
            return with_list_items(args, super().parse_args, self._options_of)
        except ValueError as error:
            self.error(str(error), error)

    def _options_of(self, verb: str | None) -> list[str]:
        return option_strings(self if verb is None else subcommand_parser(self, verb))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one sentence and leave with exit code 2."""
        # Nested parsers rely on the exception; a hundred lines of usage would bury the sentence.
        if not self.exit_on_error or os.environ.get("JSONARGPARSE_DEBUG") == "true":
            super().error(message, ex)
        parser = cast(ArgumentParser, getattr(ex, "subcommand_parser", None) or self)
        sys.stderr.write(f"error: {explain(message, parser)}\n")
        raise SystemExit(2)


def _numbers(
    config: object, above: str = "", class_path: str = ""
) -> Iterator[tuple[str, float, str]]:
    """Yield every float in a configuration, with its key and the class it is for."""
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, float):
        yield above, config, class_path
    elif isinstance(config, Mapping):
        owner = config.get("class_path")
        for name, value in config.items():
            inside = owner if owner and name == "init_args" else class_path
            yield from _numbers(value, f"{above}.{name}" if above else str(name), inside)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _numbers(value, above, class_path)


def _is_default(class_path: str, name: str, value: float) -> bool:
    """Whether a class gives an argument this value by itself: what its author chose is no mistake."""
    module, _, short = class_path.rpartition(".")
    kind = getattr(importlib.import_module(module), short, None) if module else None
    return isinstance(kind, type) and constructor_defaults(kind).get(name) == value
