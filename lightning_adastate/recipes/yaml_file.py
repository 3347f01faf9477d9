"""Configuration files are looked at before anything is made of them: size, encoding, YAML, references, keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

MOST_BYTES = 1_000_000
"""Largest configuration file."""

MOST_NODES = 100_000
"""Most values of a configuration, those that stand behind references (`*name`) counted each time."""


MOST_DEPTH = 100
"""Most brackets that may be open at a time."""


def check_yaml(path: Path, seen: frozenset[Path] = frozenset()) -> None:
    """Refuse a file that is no configuration, and component files it names that are none.

    References within YAML multiply: nine lines can stand for a billion values, on which a parser hangs.

    Args:
        path: The file.
        seen: Files that name it.

    Raises:
        ValueError: Naming the file, the place in it, and what is wrong.
    """
    tree = _compose(path)
    if tree is None:
        return
    _count(tree, path, {}, set())
    for node in _nodes(tree, set()):
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, path)
        if isinstance(node, yaml.ScalarNode) and node.value.endswith(".yaml"):
            named = path.parent / node.value
            if named.is_file() and named.resolve() not in {path.resolve(), *seen}:
                check_yaml(named, seen | {path.resolve()})


def top_level_keys(path: Path) -> list[str]:
    """Return the keys at the top of a configuration file; none where it is no mapping.

    Raises:
        ValueError: If the file is no configuration.
    """
    tree = _compose(path)
    if not isinstance(tree, yaml.MappingNode):
        return []
    return [key.value for key, _ in tree.value if key.value != "<<"]


def _compose(path: Path) -> yaml.Node | None:
    """Read a file into nodes, each of which is there once however often it is referred to."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"the config {str(path)!r} has {size} bytes; a configuration has at most {MOST_BYTES}, is it another file?"
        )
    try:
        text = path.read_text(encoding="utf-8")
        if _depth(text) > MOST_DEPTH:
            raise ValueError(
                f"the config {str(path)!r} is nested too deeply: more than {MOST_DEPTH} brackets"
            )
        found: yaml.Node | None = yaml.compose(text, yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the config {str(path)!r} is no UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(
            f"the config {str(path)!r} is no valid YAML: {yaml_problem(error)}"
        ) from error
    return found


def _depth(text: str) -> int:
    """Return how many brackets are open at most: the time of YAML's scanner grows with the square of it."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = max(0, depth + (1 if bracket in "[{" else -1))
        deepest = max(deepest, depth)
    return deepest


def yaml_problem(error: yaml.YAMLError) -> str:
    """Return where a YAML error is and what it is, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"position {error.position}: {error.reason}"
    return " ".join(str(error).split())


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _nodes(node: yaml.Node, seen: set[int]) -> Iterator[yaml.Node]:
    """Yield every node once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    yield node
    for child in _children(node):
        yield from _nodes(child, seen)


def _count(node: yaml.Node, path: Path, counts: dict[int, int], open_nodes: set[int]) -> int:
    """Return how many values a node stands for, references resolved.

    Raises:
        ValueError: If they are too many, or a node holds itself.
    """
    if id(node) in counts:
        return counts[id(node)]
    line = node.start_mark.line + 1
    if id(node) in open_nodes:
        raise ValueError(f"the config {str(path)!r} refers to itself in line {line}")
    open_nodes.add(id(node))
    total = 1 + sum(_count(child, path, counts, open_nodes) for child in _children(node))
    open_nodes.remove(id(node))
    if total > MOST_NODES:
        raise ValueError(
            f"the config {str(path)!r} stands for more than {MOST_NODES} values in line {line}, through references "
            "that refer to references; write out what is meant"
        )
    counts[id(node)] = total
    return total


def _check_keys(node: yaml.MappingNode, path: Path) -> None:
    """Refuse a key that is there twice: YAML would silently take the last.

    Raises:
        ValueError: Naming the key and both lines.
    """
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ValueError(
                f"the config {str(path)!r} has {key.value!r} twice, in lines {lines[key.value]} and {line}"
            )
        lines[key.value] = line
