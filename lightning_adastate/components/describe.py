"""A stable text of a constructor's argument: equal values give equal texts in every process."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from functools import partial, singledispatch
from numbers import Integral, Real
from types import BuiltinFunctionType, FunctionType, MethodType, NoneType

import numpy as np
import torch
from torch import Tensor, nn


@singledispatch
def describe(value: object) -> str:
    """Return a text that names a value, without memory addresses.

    Equal numbers and equal sequences read alike, whatever their type: YAML turns tuples into lists and 1 into 1.0.
    Tensors and arrays are named by format, shape and a hash of their bytes, functions and classes by where they can
    be imported from, components by class and arguments, plain modules by their structure: weights are what
    ``weights_fingerprint`` is for. ``describe.register`` adds a type.

    Raises:
        ValueError: If there is no such text, as for a lambda, or an object of an unknown class.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        return f"{qualified_name(type(value))}({describe(fields)})"
    raise ValueError(
        f"a {type(value).__name__} is neither plain data nor a component; make its class a dataclass "
        "or a Component"
    )


def qualified_name(thing: type | Callable[..., object]) -> str:
    """Return the module and the name of a class or function."""
    return f"{thing.__module__}.{thing.__qualname__}"


@describe.register(NoneType)
@describe.register(bool)
@describe.register(str)
@describe.register(bytes)
@describe.register(complex)
def _plain(value: object) -> str:
    return repr(value)


@describe.register(Real)
def _number(value: Real) -> str:
    """Write the number; a whole one without a point."""
    if isinstance(value, Integral):
        return repr(int(value))
    plain = float(value)
    return repr(int(plain) if plain.is_integer() else plain)


@describe.register(np.generic)
def _scalar(value: np.generic) -> str:
    return describe(value.item())


@describe.register(Enum)
def _enum(value: Enum) -> str:
    return f"{qualified_name(type(value))}.{value.name}"


@describe.register(os.PathLike)
def _path(value: os.PathLike[str]) -> str:
    return repr(os.fspath(value))


@describe.register(torch.dtype)
@describe.register(torch.device)
def _torch_constant(value: object) -> str:
    return str(value)


@describe.register(Tensor)
def _tensor(value: Tensor) -> str:
    own = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"tensor({value.dtype}, {list(value.shape)}, {_hash(own.tobytes())})"


@describe.register(np.ndarray)
def _array(value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    if value.dtype.hasobject:
        raise ValueError("an array of objects has no bytes of its own; give an array of numbers")
    return f"array({value.dtype}, {list(value.shape)}, {_hash(value.tobytes())})"


@describe.register(Mapping)
def _mapping(value: Mapping[object, object]) -> str:
    pairs = sorted(f"{describe(key)}: {describe(part)}" for key, part in value.items())
    return f"{{{', '.join(pairs)}}}"


@describe.register(AbstractSet)
def _set(value: AbstractSet[object]) -> str:
    return f"{{{', '.join(sorted(describe(part) for part in value))}}}"


@describe.register(Sequence)
def _sequence(value: Sequence[object]) -> str:
    return f"[{', '.join(describe(part) for part in value)}]"


@describe.register(type)
@describe.register(FunctionType)
@describe.register(BuiltinFunctionType)
def _importable(value: Callable[..., object]) -> str:
    """Name a class or function, if that name leads back to it."""
    if value.__module__ is None:
        raise ValueError(f"{value!r} belongs to no module; define a function in one")
    name = qualified_name(value)
    try:
        found: object = importlib.import_module(value.__module__)
    except ImportError as error:
        raise ValueError(f"{name} cannot be imported: {error}") from error
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise ValueError(f"{name} cannot be imported by that name; define it in a module")
    return name


@describe.register(partial)
def _partial(value: partial[object]) -> str:
    return f"partial({describe(value.func)}, {describe(value.args)}, {describe(value.keywords)})"


@describe.register(MethodType)
def _bound(value: MethodType) -> str:
    return f"{describe(value.__self__)}.{value.__func__.__name__}"


@describe.register(nn.Module)
def _module(value: nn.Module) -> str:
    text = str(value)
    if " at 0x" in text:
        raise ValueError(f"the text of a {type(value).__name__} holds a memory address")
    return f"{qualified_name(type(value))}: {text}"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


__all__ = ["describe", "qualified_name"]
