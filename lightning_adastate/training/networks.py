"""Teachers and critics: how they are built, where a teacher waits, and how a loss evaluates them."""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_adastate.backbones import Backbone
from lightning_adastate.losses import Networks, Velocity
from lightning_adastate.weights.loading import load_into

TeacherDType = Literal["float32", "bfloat16"]
"""What a frozen teacher's weights are kept in."""


def build_network(
    factory: Callable[[], Backbone] | None,
    like: Backbone,
    weights: str | None,
    *,
    dtype: torch.dtype | None = None,
) -> Backbone:
    """Build a network, or copy ``like`` (without an adapter) where there is no factory; then load its weights.

    Args:
        factory: Builds it.
        like: What is copied otherwise.
        weights: File of its weights.
        dtype: Format that it is built in, ``None`` is that of ``like``. Built wide and cast afterwards, 14B
            would need 57 GB on the way.
    """
    if factory is None:
        network = like.plain_copy()
    else:
        network = built_in(next(like.parameters()).dtype if dtype is None else dtype, factory)
    if weights is not None:
        load_into(network, weights)
    return network


class AllocateIn(TorchFunctionMode):
    """Give floating-point tensors that are allocated without a format this one, in this thread and while it is open.

    ``torch.set_default_dtype`` would do so for all threads. Layers allocate their weights with these functions;
    what is made from values keeps the format of the values.
    """

    ALLOCATORS = frozenset({torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn})

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Call a function of torch."""
        del types
        kwargs = dict(kwargs or {})
        if func in self.ALLOCATORS and kwargs.get("dtype") is None:
            kwargs["dtype"] = self.dtype
        return func(*args, **kwargs)


def built_in(dtype: torch.dtype, factory: Callable[[], Backbone]) -> Backbone:
    """Build a network whose weights have a format from the start."""
    with AllocateIn(dtype):
        return factory()


class TeacherPlacement(Protocol):
    """Where a frozen network is between its evaluations."""

    network: Backbone

    @abstractmethod
    def at(self, device: torch.device) -> AbstractContextManager[Backbone]:
        """Have the network on a device for a while."""


class Resident(nn.Module):
    """The network is part of the module, and goes where that goes."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network

    @contextmanager
    def at(self, device: torch.device) -> Iterator[Backbone]:
        """Hand the network out; it is there."""
        del device
        yield self.network


class Offloaded:
    """The network waits in the CPU's memory; copies of its tensors go to a device while it is evaluated.

    It is no child of the module: neither the trainer nor DDP moves it. It is frozen, so nothing is
    copied back. What back-propagates through it must do so before it leaves; our losses take their
    gradient at the video at once.
    """

    def __init__(self, network: Backbone) -> None:
        self.network = network

    @contextmanager
    def at(self, device: torch.device) -> Iterator[Backbone]:
        """Bring the network to a device, and let go of the copies after, whatever happens."""
        tensors = itertools.chain(self.network.parameters(), self.network.buffers())
        home = [(tensor, tensor.data) for tensor in tensors]
        try:
            for tensor, waiting in home:
                tensor.data = self.fetch(waiting, device)
            yield self.network
        finally:
            for tensor, waiting in home:
                tensor.data = waiting

    def fetch(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Return a copy on the device."""
        return tensor.to(device)


def place(
    teacher: Backbone, dtype: TeacherDType, *, offload: bool, sharded: bool
) -> TeacherPlacement:
    """Freeze a teacher, in place, keep its weights in ``dtype``, and give it its placement.

    Args:
        teacher: The network.
        dtype: Of its weights.
        offload: Whether it waits in the CPU's memory between two scorings.
        sharded: Whether the networks are sharded over processes.

    Raises:
        ValueError: If it is to be offloaded and sharded.
    """
    if sharded and offload:
        raise ValueError(
            "FSDP shards the teacher over the processes: `teacher_offload` must be false, got true; "
            "or use the strategy ddp"
        )
    kind: torch.dtype = getattr(torch, dtype)
    frozen = teacher.eval().requires_grad_(requires_grad=False).to(kind)
    return Offloaded(frozen) if offload else Resident(frozen)


@contextmanager
def bound(
    place: TeacherPlacement, critic: Backbone, text_BSD: Tensor, negative_BSD: Tensor | None
) -> Iterator[Networks]:
    """Bind teacher and critic to prompts, without a graph, while the teacher is where the prompts are.

    Args:
        place: Where the teacher is.
        critic: The critic.
        text_BSD: The prompts' embeddings.
        negative_BSD: Those of the negative prompt, if the loss has guidance.
    """
    with place.at(text_BSD.device) as teacher:
        with torch.no_grad():
            negative = None if negative_BSD is None else velocity_of(teacher, negative_BSD)
            networks = Networks(
                velocity_of(teacher, text_BSD), negative, velocity_of(critic, text_BSD)
            )
        yield networks


def velocity_of(network: Backbone, text_BSD: Tensor) -> Velocity:
    """Bind prompts to a network: latents and timesteps to velocity, bidirectionally.

    The text keys and values are made here, once, with a graph where gradients are enabled.
    """
    text = network.text_kv(text_BSD)

    def velocity(latents_BFCHW: Tensor, timestep_BF: Tensor) -> Tensor:
        out: Tensor = network(latents_BFCHW, timestep_BF=timestep_BF, text=text).velocity_BFCHW
        return out

    return velocity
