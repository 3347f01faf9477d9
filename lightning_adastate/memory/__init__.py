"""What a recipe will take of memory, before anything is loaded."""

from lightning_adastate.memory.phases import Line, Phase, Remedy
from lightning_adastate.memory.planning import Shape, plan

__all__ = ["Line", "Phase", "Remedy", "Shape", "plan"]
