"""A component remembers its constructor's arguments, so that a saved stream can tell components apart."""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from abc import ABCMeta
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

from torch import nn

from lightning_adastate.components.describe import describe, qualified_name

Built = TypeVar("Built")

RECORD = "_constructed_with"
"""Attribute that holds the record; plain data, so copies and pickles keep it."""


class Record(NamedTuple):
    """How a component was built.

    Args:
        name: Qualified name of its class. A wrapper may change an object's class later (FSDP does).
        arguments: Every argument's description, by name.
        problem: Why there is no fingerprint; empty if there is one.
    """

    name: str
    arguments: dict[str, str]
    problem: str = ""


class RecordingMeta(ABCMeta):
    """Record the arguments of every construction: once per object, those of the outermost constructor.

    A metaclass sees them whatever the class does in ``__init__``, and does not see copies and pickles.
    """

    def __call__(cls: type[Built], *args: object, **kwargs: object) -> Built:
        """Build an object. What it was given is described first: a constructor may change a list."""
        try:
            given = _bound_arguments(cls, args, kwargs)
        except TypeError:  # the constructor says it better
            given = {}
        record = _record(cls, given)
        try:
            built: Built = type.__call__(cls, *args, **kwargs)
        except (LookupError, AttributeError, NameError) as error:
            raise ValueError(
                f"{record.name} cannot be built: {_author_error(cls, error)}"
            ) from error
        _check_initialised(built, record.name)
        built.__dict__[RECORD] = record
        return built

    @property
    def __signature__(cls) -> inspect.Signature:
        """Return the constructor's signature; ``inspect`` would take that of ``__call__`` above."""
        return _signature(cls)


class Component(metaclass=RecordingMeta):
    """Base of what a stream is composed of: anchor, cache, schedule, noise, backbone.

    The constructor's arguments are recorded when an object is built, defaults included. A subclass has
    nothing to do. Attributes that are changed after construction are not seen.
    """

    neutral_arguments: ClassVar[frozenset[str]] = frozenset()
    """Constructor arguments that leave the numbers as they are: kernels, compilation, where weights lie."""

    @property
    def description(self) -> str:
        """Return the class's qualified name and the arguments, without neutral ones, in one line.

        The same arguments give the same text in every process, positional or named, given or default.

        Raises:
            ValueError: If an argument has no stable description, as a lambda has none.
        """
        record = _record_of(self)
        if record.problem:
            raise ValueError(record.problem)
        return _line(
            record.name,
            {n: v for n, v in record.arguments.items() if n not in self.neutral_arguments},
        )

    @property
    def fingerprint(self) -> str:
        """Return a short hash of ``description``."""
        return hashlib.sha256(self.description.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        """Name the class and all arguments."""
        return _line(type(self).__name__, _record_of(self).arguments)


def _author_error(cls: type, error: Exception) -> str:
    """Return what went wrong in a constructor, and where in the author's file: its own text may be a name alone."""
    places = traceback.extract_tb(error.__traceback__)
    module = sys.modules.get(cls.__module__)
    own = [place for place in places if place.filename == getattr(module, "__file__", None)]
    place = (own or places)[-1]
    return f"{type(error).__name__} {error} ({Path(place.filename).name}, line {place.lineno})"


def _check_initialised(built: object, name: str) -> None:
    """Refuse an object whose class forgot its base's constructor.

    Every attribute that a base declares with a type and no value must be there, and what modules need.

    Raises:
        ValueError: Naming the attribute.
    """
    wanted = [
        attribute
        for base in type(built).__mro__
        if issubclass(base, Component)
        for attribute in inspect.get_annotations(base)
        if not attribute.startswith("_")
    ]
    missing = [attribute for attribute in wanted if not hasattr(built, attribute)]
    if isinstance(built, nn.Module) and "_parameters" not in built.__dict__:
        missing.append("parameters")
    if missing:
        raise ValueError(
            f"{name} lacks what its base class sets (`{missing[0]}`): its __init__ must begin with "
            "super().__init__(...)"
        )


def _bound_arguments(
    cls: type, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> dict[str, object]:
    """Return a constructor's arguments by name, defaults included.

    Where it forwards ``**kwargs``, the named defaults of the constructors above it count as its own.

    Raises:
        TypeError: If the arguments do not fit the signature.
    """
    signature = _signature(cls)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    found: dict[str, object] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            found[name] = bound.arguments[name]
            continue
        found = constructor_defaults(cls) | found | bound.arguments[name]
    return found


def constructor_defaults(cls: type) -> dict[str, object]:
    """Return the defaults of a constructor and of those that its ``**kwargs`` may reach, nearest first."""
    found: dict[str, object] = {}
    for base in [each for each in cls.__mro__ if "__init__" in each.__dict__]:
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        for parameter in parameters:
            if parameter.default is not parameter.empty:
                found.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _signature(cls: type) -> inspect.Signature:
    """Return the signature of a constructor without ``self``."""
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return inspect.Signature()
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    _, *rest = signature.parameters.values()
    return signature.replace(parameters=rest)


def _record(cls: type, given: Mapping[str, object]) -> Record:
    """Describe the arguments; what cannot be described is named, and is a problem only to a fingerprint."""
    texts: dict[str, str] = {}
    problem = ""
    for name, value in given.items():
        try:
            texts[name] = describe(value)
        except ValueError as error:
            texts[name] = f"<{type(value).__name__}>"
            problem = f"`{name}` of {cls.__name__} has no stable description: {error}"
    return Record(qualified_name(cls), texts, problem)


def _record_of(component: Component) -> Record:
    """Return how a component was built."""
    missing = Record(
        qualified_name(type(component)),
        {},
        f"this {type(component).__name__} was not built by calling its class; build it anew",
    )
    record: Record = component.__dict__.get(RECORD, missing)
    return record


def _line(name: str, arguments: Mapping[str, str]) -> str:
    return f"{name}({', '.join(f'{key}={text}' for key, text in arguments.items())})"


@describe.register(Component)
def _component(value: Component) -> str:
    return value.description


__all__ = ["Component", "Record", "RecordingMeta"]
