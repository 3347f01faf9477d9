"""How one network is optimised: any torch optimiser and schedule, and the schedule that our recipes use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


class WarmupDecay(LRScheduler):
    """Let the learning rate rise linearly and then fall, as a pure function of the optimiser step.

    A checkpoint holds the step alone, so a resumed run follows the rates that it is configured with.

    Args:
        optimizer: Its learning rates are the peak.
        warmup_steps: The learning rate rises linearly over this many optimiser steps.
        decay: How it falls from its peak to ``final_lr_fraction`` of it.
        decay_steps: Optimiser step at which the fall ends. Needed for any ``decay`` but ``none``.
        final_lr_fraction: What is left of the peak then.

    Raises:
        ValueError: If a decay has no end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        warmup_steps: int = 0,
        decay: Literal["none", "linear", "cosine"] = "none",
        decay_steps: int | None = None,
        final_lr_fraction: float = 0.1,
    ) -> None:
        if decay != "none" and (decay_steps is None or decay_steps < 1):
            raise ValueError(
                f"`decay` {decay} needs `decay_steps` of 1 or more, got {decay_steps}"
            )
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.decay_steps = decay_steps
        self.final_lr_fraction = final_lr_fraction
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each parameter group at this step."""
        return [self._rate(peak, self.last_epoch) for peak in self.base_lrs]

    def _rate(self, peak: float | Tensor, step: int) -> float | Tensor:
        if step < self.warmup_steps:
            return peak * (step + 1) / (self.warmup_steps + 1)
        if self.decay == "none" or self.decay_steps is None:
            return peak
        span = max(1, self.decay_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / span)
        left = 1.0 - done if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return peak * (self.final_lr_fraction + (1.0 - self.final_lr_fraction) * left)

    def state_dict(self) -> dict[str, Any]:
        """Return the step."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved step. Call it after the optimiser's state is loaded, whose rates it replaces."""
        self.last_epoch = state_dict["last_epoch"]
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    optimizer: OptimizerCallable,
    lr_scheduler: LRSchedulerCallable | None = None,
) -> OptimizerLRSchedulerConfig:
    """Return the optimiser of those parameters that want a gradient, and its schedule.

    Args:
        parameters: Of one network.
        optimizer: Makes the optimiser.
        lr_scheduler: Makes the schedule; ``None`` keeps the learning rate.

    Raises:
        ValueError: If a learning rate is not positive, or the schedule waits for a metric.
    """
    built = optimizer([parameter for parameter in parameters if parameter.requires_grad])
    rates = [group["lr"] for group in built.param_groups]
    if not all(rate > 0.0 for rate in rates):
        raise ValueError(f"`lr` must be positive, got {min(rates)}: nothing would be learnt")
    # Autocast keeps cast weights until the training step ends, and we go on within it.
    built.register_step_post_hook(lambda *_: torch.clear_autocast_cache())
    schedule = (lr_scheduler or WarmupDecay)(built)
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError(  # noqa: TRY004
            "`lr_scheduler` must follow the optimiser steps, got ReduceLROnPlateau, which waits for a "
            "metric; name another one, for example WarmupDecay"
        )
    return {"optimizer": built, "lr_scheduler": schedule}


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Return the norm of all gradients of an optimiser; sharded as they are."""
    gradients = [each.grad for each in parameters_of(optimizer) if each.grad is not None]
    return nn.utils.get_total_norm(gradients)


def clip_gradients(optimizer: Optimizer, limit: float | None, norm: Tensor) -> None:
    """Scale all gradients of an optimiser so that their norm is at most ``limit``; ``None`` leaves them."""
    if limit is not None:
        nn.utils.clip_grads_with_norm_(parameters_of(optimizer), limit, norm)


def parameters_of(optimizer: Optimizer) -> Sequence[nn.Parameter]:
    """Return everything an optimiser steps."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
