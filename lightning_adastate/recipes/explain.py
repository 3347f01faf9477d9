"""A whole command line's complaint as one sentence: options, files and recipes that are not there."""

from __future__ import annotations

import contextlib
import os
import re
from argparse import ArgumentError
from collections.abc import Iterator

from jsonargparse import ArgumentParser

from lightning_adastate.recipes.errors import first_sentence, one_sentence
from lightning_adastate.recipes.first_look import EXAMPLES, no_config, no_key, no_option
from lightning_adastate.recipes.private_hooks import option_strings, option_types, positionals


@contextlib.contextmanager
def in_sentences(parser: ArgumentParser) -> Iterator[None]:
    """Turn what this parser and the components say into a ValueError of one sentence.

    The parser's own trace, of many nested parsers, says nothing to a user and is left out; with
    JSONARGPARSE_DEBUG=true it is there. That of a component leads to the line that raised, and stays.

    Raises:
        ValueError: Naming the value and the remedy.
    """
    try:
        yield
    except ArgumentError as error:
        asked = os.environ.get("JSONARGPARSE_DEBUG") == "true"
        raise ValueError(explain(str(error), parser)) from (error if asked else None)
    except ValueError as error:
        raise ValueError(first_sentence(error)) from error


def explain(message: str, parser: ArgumentParser) -> str:
    """Return one sentence for a message of this parser."""
    types = option_types(parser)
    example = EXAMPLES.get(parser.prog.split()[-1], "toy/adastate")
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        program = parser.prog.replace(" [options]", "")
        return no_option(found[1].partition("=")[0], option_strings(parser), program)
    if found := re.match(r".*File does not exist: '([^']+)'", message, re.DOTALL):
        return no_config(os.path.relpath(found[1]))
    if found := re.match(r"the following arguments are required: (.*)", message):
        standing = positionals(parser)
        if any(name in standing for name in found[1].split(", ")):
            usage = " ".join([parser.prog, *(name.upper() for name in standing)])
            return f"{found[1]} must be given: {usage}"
        missing = re.sub(r"\b(fit|validate|test|predict|generate)\.", "", found[1])
        if missing.split(".")[0] not in ("model", "config"):
            return f"{missing} must be given: " + ", ".join(
                f"--{n} ..." for n in missing.split(", ")
            )
        return f"{missing} must be given; name a recipe with --config, for example {example}"
    if message.startswith("Problems parsing config:"):
        said = re.sub(r'\s*in "<unicode string>",', " in", message)
        return "the config is no valid YAML: " + " ".join(said.split()[3:])
    if found := re.match(r"Unexpected config: (.*)", message, re.DOTALL):
        text = " ".join(found[1].split()) or "nothing"
        return f"a config must be a mapping of options to values, got {text}"
    if found := re.match(
        r"(?:Subcommand|Group) '(\w+)' does not accept option '([^']+)'", message
    ):
        where = f"{found[1]}." if message.startswith("Group") else ""
        return no_key(where + found[2], list(types), example)
    if found := re.match(r"Option '([^']+)' is not accepted$", message):
        return no_key(found[1], list(types), example)
    return one_sentence(message, types)
