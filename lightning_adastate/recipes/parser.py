"""The parser of every verb: errors in one sentence, and a change of class takes no argument along."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn, cast

from jsonargparse import ArgumentParser

from lightning_adastate.recipes.explain import explain
from lightning_adastate.recipes.private_hooks import StrictParser


class SentenceParser(StrictParser):
    """jsonargparse's parser with our errors and our rule for a change of class.

    Options are written out: an abbreviation would change its meaning when an option is added.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one sentence and leave with exit code 2."""
        # Nested parsers rely on the exception; a hundred lines of usage would bury the sentence.
        if not self.exit_on_error or os.environ.get("JSONARGPARSE_DEBUG") == "true":
            super().error(message, ex)
        parser = cast(ArgumentParser, getattr(ex, "subcommand_parser", None) or self)
        sys.stderr.write(f"error: {explain(message, parser)}\n")
        raise SystemExit(2)
