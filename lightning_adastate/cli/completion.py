"""completion: a script that completes verbs, options and shipped configurations in a shell, made by shtab."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

from lightning_adastate.recipes.first_look import HELP, OPTIONS
from lightning_adastate.recipes.names import recipe_names
from lightning_adastate.recipes.parser import SentenceParser

DESCRIPTION = """Print a script that completes verbs, options, files and the names of shipped configurations. In bash:
  eval "$(lightning-adastate completion bash)"
or write it to ~/.local/share/bash-completion/completions/lightning-adastate. It completes the installed command
`lightning-adastate`, not `python -m lightning_adastate`. Needs the extra `completion`."""

Shell = Literal["bash", "zsh", "tcsh"]

PROGRAM = "lightning-adastate"

CONFIGS = "_lightning_adastate_configs"
"""The shell's function that completes the value of `--config`."""

FILES = {"evaluate": ("videos",), "convert": ("source", "target")}
"""Verbs whose arguments are files."""


def main(args: Sequence[str] | None = None) -> int:
    """Print the script."""
    parser = SentenceParser(prog="lightning_adastate completion", description=DESCRIPTION)
    parser.add_argument("shell", type=Shell, help=f"One of {', '.join(get_args(Shell))}.")
    print(completion_script(parser.parse_args(args).shell))
    return 0


def completion_script(shell: Shell) -> str:
    """Return the script.

    Raises:
        ImportError: If shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError(
            "completion needs shtab: pip install 'lightning-adastate[completion]'"
        ) from error
    program = ArgumentParser(prog=PROGRAM)
    verbs = program.add_subparsers()
    for verb, heads in OPTIONS.items():
        one = verbs.add_parser(verb, help=verb)  # shtab passes over those without
        one.add_argument("--help_all", action="store_true", help="Show every option.")
        for name in _options(heads):
            option = one.add_argument(f"--{name}")
            if name == "config":
                option.complete = {"bash": CONFIGS}  # type: ignore[attr-defined]
            elif name.endswith(("path", "weights", "output", "start", "case")):
                option.complete = shtab.FILE  # type: ignore[attr-defined]
        for name in FILES.get(verb, ()):
            one.add_argument(name, nargs="*").complete = shtab.FILE  # type: ignore[attr-defined]
    preamble = _configs() if shell == "bash" else ""
    script: str = shtab.complete(program, shell=shell, preamble=preamble)
    return script


def _configs() -> str:
    return (
        f'{CONFIGS}() {{ compgen -W \'{" ".join(recipe_names())}\' -- "$1"; compgen -f -- "$1"; }}'
    )


def _options(heads: Sequence[str]) -> Iterator[str]:
    """Yield options by name; what stands below a head is what its class takes."""
    below = _below()
    for head in heads:
        if head not in HELP:
            yield head
            yield from (f"{head}.{name}" for name in below.get(head, ()))


def _below() -> Mapping[str, Sequence[str]]:
    """Return the arguments of what recipes are made of."""
    from lightning_adastate.callbacks.video_predictions import VideoPredictionWriter
    from lightning_adastate.generation.options import Generation
    from lightning_adastate.generation.trainer import StreamTrainer
    from lightning_adastate.training import SelfForcing, StreamModule

    known = {
        "generation": (Generation,),
        "prediction": (VideoPredictionWriter,),
        "model": (StreamModule, SelfForcing),
        "trainer": (*StreamTrainer.__mro__[:2],),
    }
    return {head: list(dict.fromkeys(_arguments(kinds))) for head, kinds in known.items()}


def _arguments(kinds: Sequence[type]) -> Iterator[str]:
    for kind in kinds:
        for name, parameter in inspect.signature(kind).parameters.items():
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                yield name
