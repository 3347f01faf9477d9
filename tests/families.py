"""The members of each family, taken from its `__all__`: a new class is tested at once."""

import importlib
import inspect

import pytest

FAMILIES = {
    "anchors": "Anchor",
    "backbones": "Backbone",
    "caches": "Cache",
    "codecs": "Codec",
    "schedules": "Schedule",
    "text": "TextEncoder",
}


def members(family):
    """Every concrete class of a family that its package exports."""
    package = importlib.import_module(f"lightning_adastate.{family}")
    base = getattr(package, FAMILIES[family])
    found = [getattr(package, name) for name in package.__all__]
    return [
        cls
        for cls in found
        if inspect.isclass(cls) and issubclass(cls, base) and not inspect.isabstract(cls)
    ]


def each(family):
    """Parametrize a test over a family: `@each("anchors")` gives it the argument `cls`."""
    found = members(family)
    return pytest.mark.parametrize("cls", found, ids=[cls.__name__ for cls in found])
