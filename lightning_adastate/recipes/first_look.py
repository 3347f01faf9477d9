"""What the text of a command line tells by itself: files and options that are not there, before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from lightning_adastate.recipes.errors import nearest
from lightning_adastate.recipes.names import CONFIG_OPTIONS, find_config, recipe_names
from lightning_adastate.recipes.yaml_file import top_level_keys

_CONFIG = ("config", "print_config")
_RECIPE = (*_CONFIG, "seed_everything", "trainer", "model", "data", "generation", "prediction")
_TRAINER = (*_RECIPE, "ckpt_path", "weights_only")

OPTIONS: dict[str, tuple[str, ...]] = {
    "fit": _TRAINER,
    "validate": (*_TRAINER, "verbose"),
    "test": (*_TRAINER, "verbose"),
    "predict": (*_TRAINER, "return_predictions"),
    "generate": _TRAINER,
    "plan": (*_RECIPE, "shape", "precision", "device_memory", "phase"),
    "layout": ("config", "model", "timeline", "chunks", "picture", "geometry"),
    "attention": (*_RECIPE, "weights", "prompts", "chunks", "seed", "device", "output"),
    "compare": (
        *_CONFIG,
        *("model", "world", "anchors", "arms", "weights", "episodes", "horizons", "num_given"),
        *("seed", "swap_after", "output"),
    ),
    "ablate": (
        *_CONFIG,
        *("recipe", "stages", "settings", "axes", "arms", "seeds", "seed_keys", "baseline"),
        *("start", "metrics", "evaluation", "output", "store", "workers", "threads", "cluster"),
        *("cluster_options", "any_code", "keep_checkpoints", "dry_run"),
    ),
    "evaluate": (
        *("chunk_frames", "first_chunk_frames", "window_frames", "num_parts", "device"),
        *("flow", "output", "pictures", "sheet_seconds", "vbench", "prompts", "hand_over"),
    ),
    "convert": ("to", "part", "dtype", "shard_gb", "num_heads"),
    "replay": (
        *_CONFIG,
        *("model", "weights", "case", "layout", "tolerance", "exit_step", "kv_gradient"),
    ),
    "trajectories": (
        *_CONFIG,
        *("model", "data", "output", "prompts", "num_clips", "num_frames", "teacher", "reads"),
        *("context_frames", "ode_steps", "shift", "guidance", "negative_prompt", "storage"),
        *("batch_size", "seed", "part", "num_parts", "device"),
    ),
    "completion": (),
}
"""First parts of every verb's options; a test holds them against the parsers. A verb that is not here is looked at
by its parser alone."""

HELP = ("help", "help_all")
"""Options of all verbs; what else stands on the line does not count then."""

READS_PARTS = ("layout",)
"""Verbs that leave aside what they do not know in a config."""

EXAMPLES = {
    "replay": "replay/longlive",
    "compare": "toy/compare",
    "ablate": "grids/anchors",
    "serve": "toy/memory",
}
"""Shipped recipes of the verbs that do not take a training recipe."""

ONLY_OF = {
    **dict.fromkeys(("anchors", "arms", "world", "episodes", "horizons"), "compare"),
    **dict.fromkeys(("recipe", "stages", "settings", "axes", "seeds", "evaluation"), "ablate"),
}
"""Options that only one verb has."""


def check_first_look(verb: str, args: Sequence[str]) -> None:
    """Refuse what no parser of this verb could take.

    Args:
        verb: The verb.
        args: What stands behind it.

    Raises:
        ValueError: Naming the option, the file or the key, and the nearest there is.
    """
    if verb not in OPTIONS or any(arg in ("-h", *(f"--{name}" for name in HELP)) for arg in args):
        return
    known = OPTIONS[verb]
    waiting = False
    for arg in args:
        if arg == "--":
            return
        option, equals, value = arg.partition("=")
        if waiting:
            _check_config(verb, arg, known)
        elif option in CONFIG_OPTIONS and equals:
            _check_config(verb, value, known)
        elif option.startswith("--") and _head(option[2:]) not in known:
            heads = [f"--{name}" for name in known]
            raise ValueError(no_option(option, heads, f"lightning_adastate {verb}"))
        waiting = not waiting and not equals and option in CONFIG_OPTIONS


def _check_config(verb: str, name: str, known: Sequence[str]) -> None:
    path = find_config(name)
    if path is None:
        if _is_text(name):
            return  # a configuration itself, which the parser reads
        raise ValueError(no_config(name))
    if verb in READS_PARTS:
        return
    for key in top_level_keys(path):
        if _head(key) not in known:
            raise ValueError(no_key(key, known, EXAMPLES.get(verb, "toy/adastate")))


def _head(key: str) -> str:
    return key.split(".")[0].rstrip("+")


def _is_text(value: str) -> bool:
    try:
        return isinstance(yaml.safe_load(value), dict)
    except yaml.YAMLError:
        return False


def no_config(name: str) -> str:
    """Return what to say about a config that is no file."""
    names = recipe_names()
    return (
        f"there is no config file {name!r}; shipped are {', '.join(names)}{nearest(name, names)}"
    )


def no_option(given: str, options: Sequence[str], program: str) -> str:
    """Return what to say about an option that is not among ``options``.

    Args:
        given: The option, without its value.
        options: Those there are, as they are written.
        program: What to ask for help.
    """
    head = given.split(".")[0]
    heads = [option.split(".")[0] for option in options]
    hint = nearest(given, options) if head in heads else nearest(head, heads)
    return f"there is no option {given}{hint or f'; see {program} --help'}"


def no_key(key: str, known: Sequence[str], example: str) -> str:
    """Return what to say about a config's key that no option has.

    Args:
        key: The key.
        known: The options there are, or their first parts.
        example: A shipped config of this verb.
    """
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
    return (
        f"there is no option {key!r}{hint or f'; a recipe of this verb is for example {example}'}"
    )


__all__ = ["EXAMPLES", "OPTIONS", "check_first_look", "no_config", "no_key", "no_option"]
