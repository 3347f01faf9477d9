"""Tensors that have a shape and no memory, and a count of what they would take.

PyTorch's own FakeTensorMode gives the same numbers and takes five times as long. Wrapper subclasses are made with two of
PyTorch's underscored functions, which its documentation names for that; they stand in this file alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.memory.live import LiveBytes, tensors_in
from lightning_adastate.rope import rope_table

aten = torch.ops.aten
SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
CPU, META = torch.device("cpu"), torch.device("meta")
AWAY = torch.device("cuda")
"""Where hollow tensors say they are that wait in another memory than the one that is counted."""

SMALL = 4096
"""Tensors of up to so many numbers that come from no hollow one are computed: draws, levels, step counts."""


class Hollow(Tensor):
    """A tensor that says it is on some device, and has a shape but no memory: behind it is one on the meta device."""

    meta: Tensor
    is_away: bool

    @staticmethod
    def __new__(cls: type[Hollow], meta: Tensor, device: torch.device = CPU) -> Hollow:
        """Wrap a tensor on the meta device."""
        made: Hollow = Tensor._make_wrapper_subclass(
            cls,
            meta.size(),
            strides=meta.stride(),
            storage_offset=meta.storage_offset(),
            dtype=meta.dtype,
            device=device,
        )
        made.meta, made.is_away = meta, device == AWAY
        return made

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Let another tensor's data be its own as well: how weights are moved where they are."""
        if func == SET_DATA:
            into, other = args
            assert isinstance(into, Hollow)
            assert isinstance(other, Hollow)
            into.meta, into.is_away = other.meta, other.is_away
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: object, types: object, args: object = (), kwargs: object = None
    ) -> object:
        """Refuse: outside a rehearsal there is nothing to compute with."""
        raise RuntimeError(f"{func} was called on a tensor without memory after its rehearsal")


class HollowBytes(LiveBytes):
    """Count the same without computing: every large tensor made inside has a shape and no memory.

    Small ones that depend on no hollow one are real, so that code may ask for their values: a drawn exit pass, a
    list of noise levels. Asked for a hollow one's value, it says one, and that two are equal: a check of what is
    finite or alike passes. Tensors on the meta device stay what they are, uncounted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._memo: dict[object, object] = {}

    def like(self, tensor: Tensor, *, away: bool = False) -> Tensor:
        """Return a hollow tensor of that size and layout, counted unless it waits elsewhere."""
        sizes = (tensor.shape, tensor.stride())
        meta = torch.empty_strided(*sizes, dtype=tensor.dtype, device=META)
        if away:
            return Hollow(meta, AWAY)
        self.count(meta, ())
        return Hollow(meta)

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operation on shapes, or really where all that it reads and makes is small and known."""
        del types
        options = kwargs or {}
        given = tensors_in((args, options))
        if not any(isinstance(each, Hollow) for each in given) and (
            getattr(func, "namespace", "") != "aten"
            or self.is_elsewhere(given, options)
            or (given and all(each.numel() <= SMALL and not each.is_meta for each in given))
        ):
            return func(*args, **options)
        if func is aten._local_scalar_dense.default:
            return torch.ones((), dtype=given[0].dtype).item()
        if func is aten.equal.default:
            return True
        if "device" not in options and any(getattr(each, "is_away", False) for each in given):
            inside = [bare(each) for each in given]
            return wrapped(on_meta(func, args, options, given, inside), inside, given, AWAY)
        key = (func, signature(args), signature(options))
        if key in self._memo:
            return self.again(self._memo[key], given)
        inside = [bare(each) for each in given]
        made = on_meta(func, args, options, given, inside)
        if not given and all(each.numel() <= SMALL for each in tensors_in(made)):
            return func(*args, **options)
        self.count(made, inside)
        recipe = recipe_of(made, inside)
        if recipe is not None:
            self._memo[key] = recipe
        return wrapped(made, inside, given)

    def again(self, recipe: object, given: list[Tensor]) -> object:
        """Make what the same operation on the same shapes made before."""
        if isinstance(recipe, Fresh):
            meta = torch.empty_strided(
                recipe.shape, recipe.stride, dtype=recipe.dtype, device=META
            )
            self.count(meta, ())
            return Hollow(meta)
        if isinstance(recipe, Given):
            return given[recipe.place]
        if isinstance(recipe, list | tuple):
            return type(recipe)(self.again(each, given) for each in recipe)
        return recipe

    @staticmethod
    def is_elsewhere(given: list[Tensor], options: dict[str, object]) -> bool:
        """Whether an operation stays on the meta device."""
        device = options.get("device")
        if given:
            return any(each.is_meta for each in given) and device in (None, META)
        return device == META


def bare(tensor: Tensor) -> Tensor:
    """Return what is behind a tensor, on the meta device."""
    if isinstance(tensor, Hollow):
        return tensor.meta
    if tensor.is_meta:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


def on_meta(
    func: Callable[..., object],
    args: tuple[object, ...],
    options: dict[str, object],
    given: list[Tensor],
    inside: list[Tensor],
) -> object:
    """Run an operation on what is behind its tensors."""
    places = {id(each): place for place, each in enumerate(given)}
    return func(
        *(swapped(part, inside, places) for part in args),
        **{name: swapped(part, inside, places) for name, part in options.items()},
        **({} if given or "device" in options else {"device": META}),
    )


def swapped(part: object, inside: list[Tensor], places: dict[int, int]) -> object:
    """Return an argument for the meta device."""
    if isinstance(part, Tensor):
        return inside[places[id(part)]]
    if isinstance(part, list | tuple):
        return type(part)(swapped(each, inside, places) for each in part)
    if isinstance(part, torch.device):
        return META
    return None if isinstance(part, torch.Generator) else part


def wrapped(
    made: object, inside: list[Tensor], given: list[Tensor], device: torch.device = CPU
) -> object:
    """Return a result as hollow tensors; what was changed in place is what was given."""
    if isinstance(made, Tensor):
        for bare_one, whole in zip(inside, given, strict=True):
            if bare_one is made:
                return whole
        return Hollow(made, device)
    if isinstance(made, list | tuple):
        return type(made)(wrapped(each, inside, given, device) for each in made)
    return made


class Fresh(NamedTuple):
    """A result with memory of its own."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Given(NamedTuple):
    """A result that is the argument of that number, changed in place."""

    place: int


def recipe_of(made: object, inside: list[Tensor]) -> object:
    """Return how to make a result without the operation, or ``None`` if it is or has a view."""
    if isinstance(made, Tensor):
        for place, each in enumerate(inside):
            if each is made:
                return Given(place)
        whole = made.untyped_storage().nbytes() == made.numel() * made.itemsize
        own = all(
            each.untyped_storage()._cdata != made.untyped_storage()._cdata for each in inside
        )
        return Fresh(tuple(made.shape), made.stride(), made.dtype) if whole and own else None
    if isinstance(made, list | tuple):
        parts = [recipe_of(each, inside) for each in made]
        storages = {each.untyped_storage()._cdata for each in tensors_in(made)}
        if None in parts or len(storages) < len(parts):
            return None
        return type(made)(parts)
    return None


def signature(part: object) -> object:
    """Return what of an argument decides over sizes."""
    if isinstance(part, Tensor):
        return (part.shape, part.stride(), part.dtype)
    if isinstance(part, list | tuple):
        return tuple(signature(each) for each in part)
    if isinstance(part, dict):
        return tuple((name, signature(each)) for name, each in part.items())
    if isinstance(part, torch.Generator):
        return None
    return (type(part), part)


@contextlib.contextmanager
def rehearsing() -> Iterator[HollowBytes]:
    """Make every large tensor inside one without memory, and count them. Nothing is compiled."""
    rope_table.cache_clear()  # memoised tables of this kind and real ones must not meet
    torch.compiler.set_stance("force_eager")
    try:
        with HollowBytes() as live:
            yield live
    finally:
        torch.compiler.set_stance("default")
        rope_table.cache_clear()
