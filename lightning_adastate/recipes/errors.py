"""A parser's or a component's complaint as one sentence that names the value and the remedy."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

KEY = re.compile(r'(?:- )?Parser key "([^"]+)"(?: element \d+)?:\s*(.*)')
CLASS = re.compile(r"(?:- )?Problem with given class_path '([^']+)':")
GIVEN = re.compile(r"Given value: (.*)")
FACTORY = re.compile(
    r"^( *)(?:- )?Type \S*Callable\[.*?\] expects a function or a callable class: (.*?)"
    r"\. Got value: Namespace\(class_path='([^']+)'.*?$",
    re.DOTALL | re.MULTILINE,
)
"""A complaint about an argument of what a factory makes."""
NOISE = re.compile(
    r"(- )?Does not validate against|Subtypes: |Errors:|Given value type|(- )?Expected a path but"
    r"|(- )?Expected a <class 'NoneType'>|(- )?Expected a <class 'list'>"
    r"|- a (class path|dict)|Subclass types expect"
)


@dataclass(frozen=True)
class Cause:
    """One reason a value was refused: where, in which class, and why."""

    keys: tuple[str, ...]
    class_path: str | None
    text: str
    depth: int
    own_keys: tuple[str, ...] = ()
    given: str | None = None

    @property
    def where(self) -> str:
        """Return the option as it is written on the command line."""
        return ".".join(self.keys)


def one_sentence(message: str, types: Mapping[str, object] | None = None) -> str:
    """Return a parser's many-line message as one sentence.

    Args:
        message: What jsonargparse says.
        types: Annotation of each top-level option, to list the classes it takes.
    """
    message = FACTORY.sub(r"\1Problem with given class_path '\3':\n\1 \2", message)
    causes = list(_causes(message))
    if not causes:
        return _list_wanted(message) or " ".join(message.split())
    depth = max(cause.depth for cause in causes)
    deepest = [cause for cause in causes if cause.depth == depth]
    texts = list(dict.fromkeys(_explain(cause, types or {}) for cause in deepest))
    # A union says for each member why not; a class that does not exist says more than the others.
    best = [text for text in texts if "there is no" in text] or _said_once(texts)
    where = deepest[0].where
    return f"{where}: {' or '.join(best)}" if where else " or ".join(best)


def first_sentence(error: BaseException) -> str:
    """Return what a component, a data set or a loader says, without the trace it may carry."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"cannot use {str(error.filename)!r}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "Traceback" in str(error):  # raised in a worker process, which sends its trace along
        return re.sub(r"^\w*(Error|Exception): ", "", lines[-1])
    if lines[0].startswith("Does not validate against"):  # a component's own error, in a wrapper
        return one_sentence(str(error))
    return " ".join(lines)


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ``; did you mean X?`` or nothing."""
    by_case = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_case, n=1, cutoff=0.6)
    return f"; did you mean {by_case[found[0]]}?" if found else ""


def _causes(message: str) -> Iterator[Cause]:
    """Walk the indented message; keys and classes are the branches, everything else is a leaf."""
    stack: list[tuple[int, str, str]] = []
    given = [found[1] for line in message.splitlines() if (found := GIVEN.match(line.strip()))]
    for line in message.splitlines():
        text = line.strip()
        if not text or GIVEN.match(text) or NOISE.match(text):
            continue
        indent = len(line) - len(line.lstrip())
        stack = [entry for entry in stack if entry[0] < indent or entry[0] == 0 < indent]
        if found := KEY.match(text):
            stack.append((indent, "key", found[1]))
            text = found[2]
        elif found := CLASS.match(text):
            stack.append((indent, "class", found[1]))
            text = ""
        if not text:
            continue
        classes = [i for i, entry in enumerate(stack) if entry[1] == "class"]
        yield Cause(
            keys=tuple(value for _, kind, value in stack if kind == "key"),
            class_path=stack[classes[-1]][2] if classes else None,
            text=text.removeprefix("- "),
            depth=len(stack),
            own_keys=tuple(e[2] for e in stack[classes[-1] + 1 if classes else 0 :]),
            given=given[0] if given else None,
        )


def _said_once(texts: Sequence[str]) -> list[str]:
    """Return the reasons of a union with the value, which all of them name, only at the end."""
    *others, last = texts
    ending = ", got " + last.rpartition(", got ")[2]
    return [*(text.removesuffix(ending) for text in others), last]


def _list_wanted(message: str) -> str | None:
    """Return a sentence for a lone value where a list is wanted; in a union that reason says nothing."""
    found = re.match(
        r'Parser key "([^"]+)":\s*Expected a <class \'list\'>\. Got value: (.*)', message
    )
    return f"{found[1]}: expected a list, got {found[2]}; write [{found[2]}]" if found else None


def _explain(cause: Cause, types: Mapping[str, object]) -> str:
    """Return the reason in our words where we know more than the parser."""
    if found := re.match(r"Expected a dot import path string: (\S+)", cause.text):
        return _unknown_class(found[1], cause, types)
    if found := re.match(r"Option '([^']+)' is not accepted", cause.text):
        return _unknown_option(found[1], cause)
    if found := re.match(r"Expected a <class '(\w+)'>(?:\. Got value: (.*))?", cause.text):
        value = found[2] if found[2] is not None else cause.given
        return f"expected {found[1]}" + (f", got {value}" if value is not None else "")
    if found := re.match(r"Expected a typing.Literal\[(.*)\](?:\. Got value: (.*))?", cause.text):
        value = found[2] if found[2] is not None else cause.given
        return f"expected one of {found[1]}" + (f", got {value}" if value is not None else "")
    if cause.text.startswith(("No module named", "module ", "cannot import")) and cause.class_path:
        near = _nearest_in_module(cause.class_path, types.get(cause.where))
        return f"cannot import {cause.class_path!r}: {cause.text}{near}"
    if found := re.match(r"Expected an instantiatable class, but (\S+) is abstract", cause.text):
        return _abstract(found[1])
    # A sentence's first word goes on in ours; the name of a class stays as it is.
    first = cause.text.split(maxsplit=1)[0]
    text = (
        cause.text if first[1:] != first[1:].lower() else first.lower() + cause.text[len(first) :]
    )
    return text.replace(". Got value: ", ", got ")


def _abstract(class_path: str) -> str:
    """Return which methods an author has left out."""
    kind = _find(class_path)
    missing = sorted(getattr(kind, "__abstractmethods__", ()))
    if not missing:
        return f"{class_path} is abstract and cannot be built"
    return (
        f"{class_path} does not define {', '.join(f'`{name}`' for name in missing)}, which its base class demands; "
        "write it, or give a class that has it"
    )


def _nearest_in_module(class_path: str, annotation: object) -> str:
    """Return ``; did you mean X?`` for a class of a module that can be imported, or nothing."""
    module, _, name = class_path.rpartition(".")
    try:
        found = vars(importlib.import_module(module))
    except (ImportError, ValueError):
        return ""
    bases = tuple(base for base in _classes(annotation) if base is not str) or (object,)
    own = [n for n, kind in found.items() if inspect.isclass(kind) and issubclass(kind, bases)]
    hint = nearest(name, [n for n in own if found[n].__module__ == module] or own)
    return hint.replace("did you mean ", f"did you mean {module}.")


def _find(class_path: str) -> object:
    """Return a class by its import path; ``None`` if it cannot be found."""
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def _unknown_class(name: str, cause: Cause, types: Mapping[str, object]) -> str:
    annotation = types.get(cause.where)
    if cause.class_path is not None and cause.own_keys:
        annotation = _parameters(cause.class_path).get(cause.own_keys[-1])
    bases = [base for base in _classes(annotation) if base is not str]  # dict[str, Anchor]
    if numbers := [base.__name__ for base in bases if base in (int, float)]:
        return f"expected {numbers[0]}, got {name}"
    kind = bases[0].__name__ if bases else "class"
    known = sorted({found.__name__ for base in bases for found in concrete_subclasses(base)})
    listed = f"; known are {', '.join(known)}" if known else ""
    return (
        f"there is no {kind} {name!r}{listed}; a class of your own needs its import path"
        f"{nearest(name, known)}"
    )


def _unknown_option(name: str, cause: Cause) -> str:
    if cause.class_path is None:
        return f"there is no option {name!r}"
    known = list(_parameters(cause.class_path))
    short = cause.class_path.rpartition(".")[2]
    return (
        f"{short} takes no {name!r}; it takes {', '.join(known) or 'nothing'}"
        f"{nearest(name, known)}"
    )


def concrete_subclasses(base: type) -> Iterator[type]:
    """Yield ``base`` and its subclasses that can be built and named."""
    private = base.__name__.startswith("_") or "<locals>" in base.__qualname__
    if not inspect.isabstract(base) and not private:
        yield base
    children: list[type] = type.__subclasses__(base)
    for child in children:
        yield from concrete_subclasses(child)


def _classes(annotation: object) -> Iterator[type]:
    """Yield the classes in an annotation: ``list[Callback] | None`` gives ``Callback``."""
    members = typing.get_args(annotation)
    if not members and inspect.isclass(annotation) and annotation is not type(None):
        yield annotation
    for member in members:
        yield from _classes(member)


def _parameters(class_path: str) -> dict[str, object]:
    """Return the annotations of a class's constructor, and of those it forwards ``**kwargs`` to."""
    module, _, name = class_path.rpartition(".")
    hints: dict[str, object] = {}
    try:
        for kind in getattr(importlib.import_module(module), name).__mro__:
            if "__init__" not in vars(kind):
                continue
            last = inspect.getfullargspec(kind.__init__).varkw
            own = typing.get_type_hints(kind.__init__)
            hints |= {key: own[key] for key in own if key not in ("return", last, *hints)}
            if last is None:
                break
    except (ImportError, AttributeError, NameError, TypeError, ValueError):
        return hints
    return hints
