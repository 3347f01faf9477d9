"""Gradients that are not finite stop the run before they update anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_adastate.training.sharding import full_tensor
from lightning_adastate.training.trainers import trainer_of, where_to_go_on


class NonFiniteError(ValueError):
    """A gradient that is not finite."""


def check_gradients(
    module: LightningModule, norm: Tensor, parameters: Sequence[nn.Parameter]
) -> None:
    """Refuse to update from gradients whose norm is not finite. The norm is that of all ranks, so all of them stop.

    Args:
        module: The module in training.
        norm: Norm of all gradients, before clipping.
        parameters: What is to be updated.

    Raises:
        NonFiniteError: Naming the first bad tensor, and the checkpoint to go on from.
    """
    if bool(torch.isfinite(norm)):
        return
    wanted = {id(parameter) for parameter in parameters}
    named = (
        name
        for name, parameter in module.named_parameters()
        if id(parameter) in wanted
        and parameter.grad is not None
        and not bool(full_tensor(parameter.grad).isfinite().all())
    )
    first = next(named, "all gradients together")
    trainer = trainer_of(module)
    go_on = "No checkpoint was written yet" if trainer is None else where_to_go_on(trainer)
    raise NonFiniteError(
        f"the gradient of {first} is not finite after {module.global_step} generator steps; its step was not taken. "
        f"{go_on}; look at teacher, data, learning rate and precision"
    )
