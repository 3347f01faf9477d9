"""How one network is optimised: AdamW, its learning rate over time, clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_adastate.training.sharding import full_tensor


@dataclass(frozen=True)
class Optimization:
    """AdamW with warm-up, decay and gradient clipping.

    Args:
        lr: Peak learning rate.
        betas: Decay of the running means of gradient and squared gradient.
        weight_decay: Decoupled weight decay.
        clip_norm: Largest norm of the whole gradient; ``None`` does not clip.
        warmup_steps: The learning rate rises linearly over this many optimiser steps.
        decay: How it falls from its peak to ``final_lr_fraction`` of it.
        decay_steps: Optimiser step at which the fall ends. Needed for any ``decay`` but ``none``.
        final_lr_fraction: What is left of the peak then.

    Raises:
        ValueError: If a number is out of range, or a decay has no end.
    """

    lr: float = 2e-6
    betas: tuple[float, float] = (0.0, 0.999)
    weight_decay: float = 0.01
    clip_norm: float | None = 10.0
    warmup_steps: int = 0
    decay: Literal["none", "linear", "cosine"] = "none"
    decay_steps: int | None = None
    final_lr_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.lr <= 0.0:
            raise ValueError(f"`lr` must be positive, got {self.lr}")
        if self.clip_norm is not None and self.clip_norm <= 0.0:
            raise ValueError(f"`clip_norm` must be positive or null, got {self.clip_norm}")
        if self.decay != "none" and (self.decay_steps is None or self.decay_steps < 1):
            raise ValueError(
                f"`decay` {self.decay} needs `decay_steps` of 1 or more, got {self.decay_steps}"
            )

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        """Return the optimiser of those parameters that want a gradient."""
        wanted = [parameter for parameter in parameters if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            wanted, lr=self.lr_at(0), betas=self.betas, weight_decay=self.weight_decay
        )
        # Autocast keeps cast weights until the training step ends, and we go on within it.
        optimizer.register_step_post_hook(lambda *_: torch.clear_autocast_cache())
        return optimizer

    def lr_at(self, step: int) -> float:
        """Return the learning rate of an optimiser step, a pure function of its number."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / (self.warmup_steps + 1)
        if self.decay == "none" or self.decay_steps is None:
            return self.lr
        span = max(1, self.decay_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / span)
        left = 1.0 - done if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.lr * (self.final_lr_fraction + (1.0 - self.final_lr_fraction) * left)

    def prepare(self, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
        """Set the learning rate of ``step`` and clip the gradients; return their norm before clipping."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr_at(step)
        limit = math.inf if self.clip_norm is None else self.clip_norm
        return full_tensor(nn.utils.clip_grad_norm_(parameters_of(optimizer), limit))


def parameters_of(optimizer: torch.optim.Optimizer) -> Sequence[nn.Parameter]:
    """Return everything an optimiser steps."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
