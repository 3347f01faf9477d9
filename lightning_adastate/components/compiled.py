"""A compiled function that goes on plain where compiling fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from typing_extensions import ParamSpec

log = logging.getLogger(__name__)

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


class CompiledOrPlain(Generic[Inputs, Output]):
    """A function compiled for static shapes; where that fails it runs plain from then on, with one warning.

    Args:
        function: What is compiled. It may be called twice for one result, so it changes nothing.
        what: What it is, for the warning.
    """

    def __init__(self, function: Callable[Inputs, Output], what: str) -> None:
        self.plain = function
        self.what = what
        self.compiled: Callable[Inputs, Output] = torch.compile(function, dynamic=False)
        self.failed = False

    def __call__(self, *args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        """Call it."""
        if self.failed:
            return self.plain(*args, **kwargs)
        try:
            return self.compiled(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - dynamo, inductor and the C++ compiler have their own
            made = self.plain(*args, **kwargs)  # what is wrong with the input is said by this
            self.failed = True
            first = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("torch.compile failed (%s); %s run plain", first, self.what)
            return made
