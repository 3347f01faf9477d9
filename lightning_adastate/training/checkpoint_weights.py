"""The weights in a checkpoint of training: whether they are of a module, and where they go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_adastate.weights.files import find_weights
from lightning_adastate.weights.loading import check_finite

FROZEN = ("codec.", "text_encoder.", "teacher.", "teacher_placement.")
"""Modules that are not saved: their weights come from where the configuration says."""


def check_weights(
    module: LightningModule, weights: Mapping[str, Tensor], *, training: bool
) -> None:
    """Refuse weights of another module. Another anchor is no other module.

    Args:
        module: What they are for.
        weights: Tensors by name, as in a checkpoint's ``state_dict``.
        training: Whether parts that the module lacks are a mistake; streaming does without a critic.

    Raises:
        ValueError: Naming the first tensor that does not fit or is not finite, and the remedy.
    """
    own = {name: tensor for name, tensor in module.state_dict().items() if _is_saved(name)}
    theirs = {name: tensor for name, tensor in weights.items() if _is_saved(name)}
    parts = {name for name, _ in module.named_children()}
    extra = [n for n in theirs if training or n.partition(".")[0] in parts]
    problems = {
        "lacks": sorted(own.keys() - theirs.keys()),
        "also has": sorted(set(extra) - own.keys()),
        "has another shape of": sorted(
            n for n in own.keys() & theirs.keys() if own[n].shape != theirs[n].shape
        ),
    }
    found = [f"{what} {names[0]}" for what, names in problems.items() if names]
    if found:
        raise ValueError(
            f"the checkpoint is not of this model: it {' and '.join(found)}; resume with the "
            "configuration it was made with, or take its generator alone with `model.weights`"
        )
    for name, tensor in weights.items():
        check_finite(tensor, name, "the checkpoint is")


def waiting_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of networks that a module does not have yet: ``setup`` builds them."""
    parts = {name for name, _ in module.named_children()}
    return {name: one for name, one in weights.items() if name.partition(".")[0] not in parts}


def fill_network(network: nn.Module, waiting: dict[str, Tensor], name: str) -> None:
    """Move the weights that wait for a network into it, if there are any.

    Args:
        network: What ``setup`` has just built.
        waiting: Weights by their names in the module; the network's are taken out.
        name: The network's name in the module.

    Raises:
        ValueError: If they are of another network.
    """
    found = {n.removeprefix(f"{name}."): n for n in waiting if n.startswith(f"{name}.")}
    weights = {short: waiting.pop(long) for short, long in found.items()}
    if not weights:
        return
    slots = network.state_dict()
    wrong = sorted(slots.keys() ^ weights.keys())
    wrong += sorted(n for n in slots.keys() & weights.keys() if slots[n].shape != weights[n].shape)
    if wrong:
        raise ValueError(
            f"the checkpoint's {name} is another network, see {name}.{wrong[0]}; build the one it was trained "
            "with, or take the checkpoint's generator alone with `model.weights`"
        )
    network.load_state_dict(weights)


def without_lost_file(model: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return a module's configuration without its file of first weights, if that is gone, and the file.

    Args:
        model: ``class_path`` and ``init_args``.
    """
    arguments = dict(model.get("init_args", {}))
    lost = arguments.get("weights")
    try:
        if lost is None or find_weights(lost):
            return dict(model), None
    except ValueError:
        arguments["weights"] = None
    return {**model, "init_args": arguments}, lost


def check_replaced(module: nn.Module, weights: Mapping[str, Tensor], lost: str | None) -> None:
    """Refuse a checkpoint that does not hold what a lost file would have given.

    Args:
        module: Built without the file.
        weights: The checkpoint's.
        lost: The file, or ``None``.

    Raises:
        ValueError: Naming the file and the first parameter that would stay as it was built.
    """
    if lost is None:
        return
    for name, _ in module.named_parameters():
        if name.startswith("generator.backbone.") and name not in weights:
            raise ValueError(
                f"the checkpoint was trained on the weights {lost!r}, which are not there any more, and does not "
                f"hold them itself (it lacks {name}); put the file back, or give `model.weights`"
            )


def _is_saved(name: str) -> bool:
    """Tell weights that every checkpoint of a model has; an anchor's own go with the anchor."""
    return not name.startswith(FROZEN) and ".anchor." not in name
