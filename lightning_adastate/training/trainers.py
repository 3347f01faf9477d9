"""The trainer a module is attached to, if it is."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer


def trainer_of(module: LightningModule) -> Trainer | None:
    """Return the trainer of a module, or ``None`` where it streams or is tested without one."""
    try:
        return module.trainer
    except RuntimeError:  # Lightning's way to say that there is none
        return None
