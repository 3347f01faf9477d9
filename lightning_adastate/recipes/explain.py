"""A whole command line's complaint as one sentence: options, files and recipes that are not there."""

from __future__ import annotations

import contextlib
import os
import re
from argparse import ArgumentError
from collections.abc import Iterator, Sequence

from jsonargparse import ArgumentParser

from lightning_adastate.recipes.errors import first_sentence, nearest, one_sentence
from lightning_adastate.recipes.names import recipe_names
from lightning_adastate.recipes.private_hooks import option_strings, option_types, positionals

EXAMPLES = {"replay": "replay/longlive", "compare": "toy/compare", "ablate": "grids/anchors"}
"""Shipped recipes of the verbs that do not take a training recipe."""

ONLY_OF = {
    **dict.fromkeys(("anchors", "arms", "world", "episodes", "horizons"), "compare"),
    **dict.fromkeys(("recipe", "stages", "settings", "axes", "seeds", "evaluation"), "ablate"),
}
"""Options that only one verb has."""


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
        options = option_strings(parser)
        given = found[1].partition("=")[0]
        head = given.split(".")[0]
        heads = [option.split(".")[0] for option in options]
        hint = nearest(given, options) if head in heads else nearest(head, heads)
        program = parser.prog.replace(" [options]", "")
        return f"there is no option {given}{hint or f'; see {program} --help'}"
    if found := re.match(r".*File does not exist: '([^']+)'", message, re.DOTALL):
        names = recipe_names()
        name = os.path.relpath(found[1])
        return f"there is no config file {name!r}; shipped are {', '.join(names)}{nearest(name, names)}"
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
    if parts[0] in ONLY_OF and parts[0] not in heads:
        return f"`{parts[0]}` belongs to `{ONLY_OF[parts[0]]}`; name a recipe of this verb, for example {example}"
    below = [name for name in known if name.startswith(f"{parts[0]}.")]
    hint = nearest(key, below) if parts[0] in heads else nearest(parts[0], heads)
    return f"there is no option {key!r}{hint}"
