"""Teachers and critics: how they are built, and how a loss asks them."""

# Shapes: B batch, F frames, C channels, H W latent height / width, S text tokens, D text width.

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lightning_adastate.backbones import Backbone
from lightning_adastate.losses import Velocity
from lightning_adastate.weights import load_into


def build_network(
    factory: Callable[[], Backbone] | None, like: Backbone, weights: str | None
) -> Backbone:
    """Build a network, or copy ``like`` (without an adapter) where there is no factory; then load its weights."""
    network = like.plain_copy() if factory is None else factory()
    if weights is not None:
        load_into(network, weights)
    return network


def velocity_of(network: Backbone, text_BSD: Tensor) -> Velocity:
    """Bind prompts to a network: latents and timesteps to velocity, bidirectionally.

    The text keys and values are made here, once, with a graph where gradients are enabled.
    """
    text = network.text_kv(text_BSD)

    def velocity(latents_BFCHW: Tensor, timestep_BF: Tensor) -> Tensor:
        out: Tensor = network(latents_BFCHW, timestep_BF=timestep_BF, text=text).velocity_BFCHW
        return out

    return velocity
