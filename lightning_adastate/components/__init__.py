"""What components have in common: they remember the arguments they were built with."""

from lightning_adastate.components.base import Component
from lightning_adastate.components.describe import describe

__all__ = ["Component", "describe"]
