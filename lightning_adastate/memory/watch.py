"""Cut a rehearsal into moments, by what was at work, and note what was alive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from lightning_adastate.backbones import Backbone
from lightning_adastate.memory.live import LiveBytes, tensor_bytes

CALLED = {
    "generator_ema": "average",
    "teacher_placement": "teacher",
    "text_encoder": "text encoder",
}
"""What children of a stage are called in a table, where not by their own name."""

BESIDE = "beside networks"
OPTIMISER = "optimiser step"
"""What a moment is called in which no part of a module is at work, and one of an optimiser."""


@dataclass(frozen=True)
class Moment:
    """A stretch of a rehearsal.

    Args:
        doing: What was done: the network that ran, or another word for it.
        size: Most bytes alive at a time, weights included.
        gradients: Bytes of gradients that were there when it began.
    """

    doing: str
    size: int
    gradients: int = 0


@dataclass
class Record:
    """What a rehearsal found.

    Args:
        resident: Bytes of weights and of optimiser states, by what has them.
        moments: What happened, in order.
    """

    resident: dict[str, int] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)

    @property
    def script(self) -> list[str]:
        """Return what was done, in order, and by whom."""
        return [*self.resident, *(moment.doing for moment in self.moments)]

    @property
    def peak(self) -> int:
        """Return the most bytes alive at a time."""
        return max(moment.size for moment in self.moments)


class Watch:
    """Cut a rehearsal into moments: a new one wherever another part of the module begins to work.

    Args:
        module: What is watched.
        live: What counts.
    """

    def __init__(self, module: nn.Module, live: LiveBytes) -> None:
        self.module = module
        self.live = live
        self.record = Record()
        self.doing = BESIDE
        self.is_held = False
        self.gradients = 0
        self.owners: dict[int, str] = {}

    def learn_names(self) -> None:
        """Note whose part every module is."""
        self.owners = {id(net): name for name, net in networks_of(self.module).items()}
        for name, child in self.module.named_children():
            for part in child.modules():
                self.owners[id(part)] = CALLED.get(name, name)

    def cut(self, doing: str, *, hold: bool = False) -> None:
        """End a moment and begin the next; while it is held, parts that work do not end it."""
        self.record.moments.append(Moment(self.doing, self.live.peak, self.gradients))
        self.live.mark()
        self.doing, self.is_held = doing, hold
        self.gradients = tensor_bytes(each.grad for each in self.module.parameters())

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Be told of every module that runs and of every optimiser that steps."""
        handles = [
            nn.modules.module.register_module_forward_pre_hook(self._begin),
            register_optimizer_step_pre_hook(self._step),
            register_optimizer_step_post_hook(lambda *_: self.cut(BESIDE)),
        ]
        self.live.mark()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, module: nn.Module, args: object) -> None:
        del args
        doing = self.owners.get(id(module))
        if doing is None or self.is_held:
            return
        if doing != self.doing or isinstance(module, Backbone):
            self.cut(doing)

    def _step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        del optimizer, args, kwargs
        self.cut(OPTIMISER, hold=True)


@contextlib.contextmanager
def cuda_steps() -> Iterator[None]:
    """Let optimisers step as CUDA does where nothing else is said: one root of all second moments."""

    def together(optimizer: Optimizer, args: object, kwargs: object) -> None:
        del args, kwargs
        for group in optimizer.param_groups:
            if group.get("foreach") is None and not group.get("fused"):
                group["foreach"] = True

    handle = register_optimizer_step_pre_hook(together)
    try:
        yield
    finally:
        handle.remove()


def networks_of(module: nn.Module) -> dict[str, Backbone]:
    """Return every backbone by its place, those that wait in an object that is no module as well."""
    found = {name: each for name, each in module.named_modules() if isinstance(each, Backbone)}
    for name, holder in vars(module).items():
        inside = getattr(holder, "__dict__", {}).values()
        found |= {CALLED.get(name, name): each for each in inside if isinstance(each, Backbone)}
    return found
