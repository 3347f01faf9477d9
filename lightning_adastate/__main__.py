"""The command line: ``python -m lightning_adastate VERB ...``, also installed as ``lightning-adastate``."""

from __future__ import annotations

import importlib
import os
import select
import sys
from collections.abc import Sequence

import lightning_adastate
from lightning_adastate.cli.early_exit import leave_at_once, work_begins

PROGRAM = "lightning_adastate"

DEBUG = "JSONARGPARSE_DEBUG"
"""Environment variable that asks for traces instead of sentences."""

MODEL_VERBS = {
    "fit": "train a stage",
    "validate": "run the validation loop",
    "test": "run the test loop",
    "predict": "write a video of every prompt and seed of a file, over all devices",
    "generate": "stream video from prompts, a clip or a saved state, for as long as you like",
}
"""Verbs that take a recipe; they need Lightning, which is imported only for them."""

SMALL_VERBS = {
    "plan": "predict what a recipe takes of memory, part by part, before anything is loaded",
    "doctor": "say what this machine has, which fast paths a recipe takes on it and why, and what to do",
    "layout": "show which frames each chunk of a configuration attends to, where they stand, and the cost",
    "attention": "measure how much attention the anchor and each cached frame get in a stream",
    "compare": "stream the same weights, prompts and noise with several anchors, and score them",
    "ablate": "train a grid of configurations with several seeds: one table with intervals, one report",
    "evaluate": "score any videos: motion, consistency and drift; hand them over to VBench",
    "convert": "turn weights of any known format into Wan's, diffusers' or Self-Forcing's",
    "replay": "run another implementation's recorded case through our loop, and compare",
    "serve": "a page that streams while it generates: prompts, anchors and plots, live",
    "trajectories": "solve a teacher's ODE and store its states, for ODERegression",
    "completion": "print a script that completes verbs and options in bash, zsh or tcsh",
}
"""Verbs with a parser of their own: the module ``cli.<verb>`` has ``main(args) -> int``."""

EXAMPLES = f"""examples:
  {PROGRAM} fit --config toy/adastate
  {PROGRAM} generate --config toy/adastate --generation.prompts "drifting slowly west"
  {PROGRAM} fit --config toy/adastate --model.anchor=EMAAnchor --model.anchor.decay=0.9
  {PROGRAM} fit --model.help SelfForcing
JSONARGPARSE_DEBUG=1 in the environment shows traces instead of one-line errors."""


READER_GONE = 141
"""Exit code where whoever read the output has left (``| head``), as shells report it."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code: 0, 1 for a mistake found while running, 2 while parsing."""
    leave_at_once()
    try:
        code = run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError as error:
        if not output_is_refused():
            print(f"error: {error}", file=sys.stderr)
            return 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at exit
        return READER_GONE
    finally:
        work_begins()


def output_is_refused() -> bool:
    """Tell whether it is our own output that nobody reads any more."""
    try:
        sys.stdout.flush()  # what could not be written still waits, unless it was more than a buffer holds
    except BrokenPipeError:
        return True
    if not hasattr(select, "poll"):
        return False
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in asked.poll(0))


def run(args: Sequence[str] | None) -> int:
    """Find the verb, run it, and turn what it raises into a sentence and an exit code."""
    given = list(sys.argv[1:] if args is None else args)
    if not given or given[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if given[0] == "--version":
        print(lightning_adastate.__version__)
        return 0
    from lightning_adastate.recipes.errors import first_sentence, nearest
    from lightning_adastate.recipes.first_look import check_first_look
    from lightning_adastate.recipes.names import resolve_arguments

    verbs = [*MODEL_VERBS, *SMALL_VERBS]
    if given[0] not in verbs:
        hint = nearest(given[0], verbs)
        print(
            f"error: there is no verb {given[0]!r}; it is one of {', '.join(verbs)}{hint}",
            file=sys.stderr,
        )
        return 2
    if os.environ.get(DEBUG, "").lower() in ("1", "yes", "on"):
        os.environ[DEBUG] = "true"  # the only word its parser takes
    find_third_party_classes()
    code = 2
    try:
        resolved = resolve_arguments(given)
        if os.environ.get(DEBUG) != "true":
            check_first_look(resolved[0], resolved[1:])
        code = 1
        return dispatch(resolved)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get(DEBUG) == "true":
            raise
        print(f"error: {first_sentence(error)}", file=sys.stderr)
        return code


def dispatch(args: Sequence[str]) -> int:
    """Import what the verb needs and run it."""
    verb = args[0]
    if verb in MODEL_VERBS:
        from lightning_adastate.cli.main import run

        return run(args)
    module = importlib.import_module(f"lightning_adastate.cli.{verb}")
    work_begins()
    code: int = module.main(args[1:])
    return code


def find_third_party_classes() -> None:
    """Let ``class_path: my_file.MyAnchor`` find the working directory."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # ``python -m`` has it, an installed script has not


def help_text() -> str:
    """Return the help of the program, without importing what the verbs need."""
    verbs = {**MODEL_VERBS, **SMALL_VERBS}
    lines = [f"  {verb:12s} {meaning}" for verb, meaning in verbs.items()]
    usage = f"usage: {PROGRAM} VERB [options]        ({PROGRAM} VERB --help lists the options)"
    return "\n".join([usage, "", "verbs:", *lines, "  --version", "", EXAMPLES])


if __name__ == "__main__":
    sys.exit(main())
