"""Schedules: the passes of a chunk."""

from lightning_adastate.schedules.base import Level, Pass, Schedule
from lightning_adastate.schedules.diagonal import DiagonalSchedule
from lightning_adastate.schedules.few_step import FewStepSchedule
from lightning_adastate.schedules.rolling import RollingSchedule

__all__ = [
    "DiagonalSchedule",
    "FewStepSchedule",
    "Level",
    "Pass",
    "RollingSchedule",
    "Schedule",
]
