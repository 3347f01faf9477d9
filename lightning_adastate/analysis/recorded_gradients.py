"""Recorded gradients of a training rollout, compared with ours."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from lightning_adastate.backbones.base import Backbone


def holds_gradients(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a case holds a loss, which takes a rollout with a graph."""
    return "loss" in tensors


def compare_gradients(
    backbone: Backbone, latents_BFCHW: Tensor, tensors: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return the relative differences of the loss and of the parameters' gradients, the largest of these.

    The loss is ``mean((latents * loss_weight)^2)`` in float64; a gradient's difference is the norm of the
    difference over the recorded norm.

    Args:
        backbone: Whose parameters; its gradients are made anew.
        latents_BFCHW: The rollout, with its graph.
        tensors: The case: ``loss``, ``loss_weight`` and ``grad.NAME``, NAME as in a state dict, with or without
            the wrapper's ``model.``.

    Raises:
        ValueError: If a gradient is of no parameter, or has another shape.
    """
    weight = tensors["loss_weight"]
    if weight.shape != latents_BFCHW.shape:
        raise ValueError(
            f"the case needs `loss_weight` {list(latents_BFCHW.shape)}, got {list(weight.shape)}"
        )
    loss = (latents_BFCHW.double() * weight.double()).square().mean()
    backbone.zero_grad()
    loss.backward()
    gaps = {"loss": _relative(loss.detach(), tensors["loss"])}
    parameters = dict(backbone.named_parameters())
    worst, worst_name, count = 0.0, "", 0
    for name in sorted(name for name in tensors if name.startswith("grad.")):
        own = name.removeprefix("grad.").removeprefix("model.")
        if own not in parameters or parameters[own].shape != tensors[name].shape:
            raise ValueError(
                f"the case holds {name!r} {list(tensors[name].shape)}, and the backbone has no such parameter"
            )
        gradient, count = parameters[own].grad, count + 1
        gap = math.inf if gradient is None else _relative(gradient, tensors[name])
        if gap >= worst:
            worst, worst_name = gap, own
    return gaps | {
        f"gradients of {count} of {len(parameters)} parameters, most {worst_name}": worst
    }


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """Return the norm of the difference over the recorded norm; not a number counts as infinite."""
    gap = float((ours.double() - theirs.double()).norm() / theirs.double().norm())
    return math.inf if math.isnan(gap) else gap
