"""Marks of what made a result: configuration, data and files, and the code that computed it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

from lightning_adastate.files import content_mark
from lightning_adastate.weights.files import find_weights

PACKAGE = Path(__file__).parent.parent

TRAINING_ROOMS = (
    "types",
    "kv",
    "components",
    "rope",
    "flow",
    "noise",
    "worlds",
    "anchors",
    "caches",
    "schedules",
    "losses",
    "backbones",
    "rewards",
    "media",
    "weights",
    "codecs",
    "text",
    "streaming",
    "data",
    "rollouts",
    "callbacks",
    "training",
)
"""Rooms whose code decides what a training ends with."""

SCORING_ROOMS = (
    *(room for room in TRAINING_ROOMS if room not in ("losses", "rewards", "training", "data")),
    "metrics",
    "evaluation",
    "analysis",
)
"""Rooms whose code decides how weights stream and score."""

IGNORED = {
    "trainer": (
        "logger",
        "default_root_dir",
        "enable_progress_bar",
        "enable_model_summary",
        "log_every_n_steps",
    ),
    "data": ("cache_folder",),
}
"""Arguments by group that change where things are written or what is shown, and no result."""

FOLDERS = ("folder",)
"""Arguments whose value is a folder of data."""


def mark_of(*parts: object) -> str:
    """Return a short hash of plain values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def config_mark(config: Mapping[str, object]) -> str:
    """Return the mark of a whole configuration: values, contents of the files it names, and a user's own classes.

    Args:
        config: Groups as they are written in YAML (``model``, ``data``, ``trainer``, ...).
    """
    groups = {
        name: _without(group, IGNORED.get(name, ()))
        for name, group in config.items()
        if name != "generation"
    }
    return mark_of(_plain(groups, ""), sorted(_own_sources(groups)))


def _without(group: object, left_aside: Sequence[str]) -> object:
    """Drop arguments of a group, also where they stand under ``init_args``."""
    if not isinstance(group, Mapping):
        return group
    return {
        key: _without(value, left_aside) if key == "init_args" else value
        for key, value in group.items()
        if key not in left_aside
    }


def _plain(value: object, key: str) -> object:
    """Replace names of files by marks of what is in them."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part, str(name)) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part, key) for part in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str) or key == "class_path":
        return value
    if key in FOLDERS and Path(value).expanduser().is_dir():
        return f"folder:{folder_mark(Path(value).expanduser())}"
    try:
        found = find_weights(value)
    except (ValueError, OSError):  # no file's name: plain text
        return value
    return f"file:{file_mark(found)}" if found.is_file() else value


def file_mark(path: Path) -> str:
    """Return the hash of a file's content."""
    status = path.stat()
    return _file_mark(path.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _file_mark(path: Path, size: int, changed: int) -> str:
    del size, changed  # part of the key: a file that changed is read again
    return content_mark(path)


def folder_mark(folder: Path) -> str:
    """Return a mark of a folder's files: names, sizes and times; their contents may be terabytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return mark_of(
        *([str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns] for p in files)
    )


def _own_sources(value: object) -> Iterator[str]:
    """Yield marks of the files of classes that are neither ours nor installed."""
    if isinstance(value, Mapping):
        module = str(value.get("class_path", "")).rpartition(".")[0]
        if module and module.split(".")[0] not in ("lightning_adastate", "lightning", "torch"):
            spec = importlib.util.find_spec(module)
            if spec is not None and spec.origin and "site-packages" not in spec.origin:
                yield file_mark(Path(spec.origin))
        for part in value.values():
            yield from _own_sources(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _own_sources(part)


@cache
def code_mark(rooms: tuple[str, ...]) -> str:
    """Return the mark of the code of some rooms, and of torch's version. Comments, layout and docstrings do not count.

    Args:
        rooms: Folders and modules of this package.
    """
    files = [
        path
        for room in rooms
        for path in sorted([PACKAGE / f"{room}.py", *(PACKAGE / room).rglob("*.py")])
        if path.is_file()
    ]
    trees = [(path.relative_to(PACKAGE).as_posix(), _code(path.read_text())) for path in files]
    return mark_of(trees, torch.__version__)[:8]


def _code(text: str) -> str:
    """Return a file's syntax tree as text, without its docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        match body:
            case [ast.Expr(value=ast.Constant()), *_]:
                del body[0]
    return ast.dump(tree)
