"""Count the bytes of the tensors that are alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Count the bytes of tensors made inside, views once: what is alive, and the most at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def mark(self) -> None:
        """Begin a new maximum here."""
        self.peak = self.now

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operation and count what it made."""
        del types
        made = func(*args, **(kwargs or {}))
        self.count(made, tensors_in((args, kwargs)))
        return made

    def count(self, made: object, given: Iterable[Tensor]) -> None:
        """Count what an operation made, but for views of what it was given."""
        old = {each.untyped_storage()._cdata for each in given}
        for part in tensors_in(made):
            storage = part.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in old or key in self._known:
                continue
            self.now += size
            self.peak = max(self.peak, self.now)
            self._known[key] = weakref.ref(storage, partial(self._drop, key, size))

    def _drop(self, key: int, size: int, gone: object) -> None:
        del gone
        if self._known.pop(key, None) is not None:
            self.now -= size


def tensors_in(part: object) -> list[Tensor]:
    """Return the tensors in arguments or results, lists of them included."""
    if isinstance(part, Tensor):
        return [part]
    if isinstance(part, dict):
        part = part.values()
    elif not isinstance(part, list | tuple):
        return []
    return [each for inner in part for each in tensors_in(inner)]


def tensor_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Return the bytes of the memory behind tensors; what they share is counted once."""
    storages = {}
    for tensor in tensors:
        if tensor is not None:
            storage = getattr(tensor, "meta", tensor).untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())
