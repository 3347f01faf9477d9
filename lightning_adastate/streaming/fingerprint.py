"""What a saved stream belongs to: a mark of all components, one of the weights, and one of each component."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from lightning_adastate.backbones.base import Backbone
from lightning_adastate.components import Component


def describe_parts(
    anchor: Component,
    cache: Component,
    schedule: Component,
    noise: Component,
    backbone: Component,
) -> dict[str, str]:
    """Return each component's class and arguments, by its name.

    Raises:
        ValueError: If an argument of a component has no stable description.
    """
    parts = {
        "anchor": anchor,
        "cache": cache,
        "schedule": schedule,
        "noise": noise,
        "backbone": backbone,
    }
    return {name: part.description for name, part in parts.items()}


def components_mark(descriptions: Mapping[str, str], backbone: Backbone) -> str:
    """Return a short hash of all components' descriptions, and of the backbone's sizes."""
    sizes = (
        backbone.num_layers,
        backbone.num_heads,
        backbone.head_dim,
        backbone.in_channels,
    )
    return _hash(repr((*descriptions.values(), sizes)))


def join_fingerprint(components: str, weights: str, descriptions: Mapping[str, str]) -> str:
    """Return the marks of components and weights, and one of each component, so that what differs has a name."""
    parts = ",".join(f"{name}:{_hash(text)[:8]}" for name, text in descriptions.items())
    return f"{components}-{weights}-{parts}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_fingerprint(saved: str, present: str, name: str) -> None:
    """Compare components and, where both sides name them, weights.

    Raises:
        ValueError: Naming what differs and what to do.
    """
    if not saved or not present:
        return
    made, made_weights, made_parts = _split(saved)
    own, own_weights, own_parts = _split(present)
    if made != own:
        both = made_parts.keys() & own_parts.keys()
        differing = [
            part for part in own_parts if part in both and made_parts[part] != own_parts[part]
        ]
        what = " and another ".join(differing) or "anchor, cache, schedule, noise or backbone"
        raise ValueError(
            f"the stream state {name} was made with another {what}; continue it with the configuration it was "
            "made with"
        )
    if made_weights and own_weights and made_weights != own_weights:
        raise ValueError(
            f"the stream state {name} was made with other weights, or in another precision; continue "
            "it with the weights it was made with (`generation.weights`), or start a new stream"
        )


def _split(fingerprint: str) -> tuple[str, str, dict[str, str]]:
    """Return the mark of all components, that of the weights, and one of each component, as far as they are there."""
    components, _, rest = fingerprint.partition("-")
    weights, _, parts = rest.partition("-")
    return components, weights, dict(part.split(":") for part in parts.split(",") if part)
