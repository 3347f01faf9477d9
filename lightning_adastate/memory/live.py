"""Count the bytes of the tensors that are alive, of real ones and of ones that only have a shape."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, ValuesView

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_adastate.rope import rope_table

aten = torch.ops.aten

DEVICE = torch.ops.prim.device.default
"""Asked by the autograd engine of every tensor that is no plain one."""

SMALL = 4096
"""Tensors of up to so many numbers that come from no fake one are computed: draws, levels, step counts."""


class LiveBytes(TorchDispatchMode):
    """Count the bytes of tensors made inside on the CPU, views once: what is alive, and the most at a time."""

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
        if func is DEVICE:
            return func(*args)
        given = tensors_in((args, (kwargs or {}).values()))
        made = self.run(func, args, kwargs or {}, given)
        known = {each.untyped_storage()._cdata for each in given}
        for part in tensors_in((made,)):
            whose = part.untyped_storage()
            if whose._cdata not in self._known and whose._cdata not in known and not is_away(part):
                self._count(whose)
        return made

    def run(
        self,
        func: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        given: list[Tensor],
    ) -> object:
        """Run an operation on the tensors ``given`` among its arguments."""
        del given
        return func(*args, **kwargs)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        self._known[key] = weakref.ref(storage, lambda _: self._drop(key, size))

    def _drop(self, key: int, size: int) -> None:
        if self._known.pop(key, None) is not None:
            self.now -= size


class FakeBytes(LiveBytes):
    """Count the same without computing: every large tensor made inside has a shape and no memory.

    Small ones that depend on no fake one are real, so that code may ask for their values: a drawn exit pass, a
    list of noise levels. Asked for a fake one's value, it says one, and that two are equal: a check of what is finite or
    alike passes. Tensors on the meta device stand for those that wait elsewhere, uncounted, and become
    fake ones on their way to the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.small = SMALL

    def like(self, tensor: Tensor) -> Tensor:
        """Return a fake tensor of that size on the CPU, and count it."""
        small, self.small = self.small, -1
        try:
            return torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu"
            )
        finally:
            self.small = small

    def run(
        self,
        func: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        given: list[Tensor],
    ) -> object:
        """Run it on shapes, or really where all that it reads and makes is small and known."""
        if any(map(is_away, given)):
            if str(kwargs.get("device")) != "cpu":
                return func(*args, **kwargs)
            sizes = (given[0].shape, given[0].stride())
            options = {"dtype": kwargs.get("dtype") or given[0].dtype, "device": torch.device("cpu")}
            return self.fake.__torch_dispatch__(aten.empty_strided.default, (), sizes, options)
        fake = any(isinstance(each, FakeTensor) for each in given)
        if given and not fake and all(each.numel() <= self.small for each in given):
            return func(*args, **kwargs)
        if func is aten.equal.default:
            return True
        if func is aten._local_scalar_dense.default:
            return torch.ones((), dtype=given[0].dtype).item()
        made: object = self.fake.__torch_dispatch__(func, (), args, kwargs)
        if given or any(part.numel() > self.small for part in tensors_in((made,))):
            return made
        return func(*args, **kwargs)


def tensors_in(parts: Iterable[object]) -> list[Tensor]:
    """Return the tensors in arguments or results, lists of them included."""
    found: list[Tensor] = []
    for part in parts:
        if isinstance(part, Tensor):
            found.append(part)
        elif isinstance(part, tuple | list | ValuesView):
            found += tensors_in(part)
    return found


def is_away(tensor: Tensor) -> bool:
    """Whether a tensor is on the meta device: one that waits elsewhere."""
    return not isinstance(tensor, FakeTensor) and tensor.is_meta


@contextlib.contextmanager
def rehearsing() -> Iterator[FakeBytes]:
    """Make every large tensor inside one without memory, and count them. Nothing is compiled."""
    rope_table.cache_clear()  # memoised tables of this kind and real ones must not meet
    torch.compiler.set_stance("force_eager")
    try:
        with FakeBytes() as live:
            yield live
    finally:
        torch.compiler.set_stance("default")
        rope_table.cache_clear()


def tensor_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Return the bytes of the memory behind tensors; what they share is counted once."""
    storages = {}
    for tensor in tensors:
        if tensor is not None:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())
