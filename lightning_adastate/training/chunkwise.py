"""Back-propagation chunk by chunk: the gradients of the whole rollout in the memory of one chunk."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from lightning_adastate.anchors import Anchor
from lightning_adastate.rollouts import Rollout
from lightning_adastate.schedules import Schedule
from lightning_adastate.streaming.streamer import KVGradient

Backward = Literal["whole", "chunks"]
"""Whether a rollout is back-propagated as a whole or chunk by chunk."""


def check_gradients(
    backward: Backward, kv_gradient: KVGradient, anchor: Anchor, schedule: Schedule
) -> None:
    """Refuse gradients between chunks where the schedule or ``backward`` cannot pass them.

    Raises:
        ValueError: Naming what passes them.
    """
    if kv_gradient != "detach" and schedule.after_exit == "finish":
        raise ValueError(
            f"{type(schedule).__name__} caches what comes after the exit pass, which has no graph: "
            f"`kv_gradient` must be 'detach', got {kv_gradient!r}"
        )
    if backward == "whole":
        return
    if kv_gradient != "detach":
        raise ValueError(
            f"`backward` 'chunks' needs `kv_gradient` 'detach': with {kv_gradient!r} chunks pass "
            "gradients on; use `backward` 'whole'"
        )
    if any(parameter.requires_grad for parameter in anchor.parameters()):
        raise ValueError(
            f"{type(anchor).__name__} has parameters, and what they made in earlier chunks would learn "
            "nothing; use `backward` 'whole'"
        )


def chunk_losses(loss: Tensor, video_BFCHW: Tensor, rollout: Rollout) -> Iterator[Tensor]:
    """Yield one scalar per chunk, made again; their gradients add up to the loss's.

    Nothing flows between chunks, so the loss's gradient at a chunk's frames is all that it needs.

    Args:
        loss: The loss of ``video_BFCHW``.
        video_BFCHW: The rollout's video as a leaf of the graph.
        rollout: With its recomputes.
    """
    (gradient,) = torch.autograd.grad(loss, video_BFCHW)
    gradient[:, : rollout.constant_frames] = 0.0
    for recompute in rollout.recomputes:
        yield recompute.surrogate_loss(gradient)
