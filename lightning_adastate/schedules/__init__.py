"""Schedules: the passes of a chunk."""

from lightning_adastate.schedules.base import Pass, Schedule
from lightning_adastate.schedules.few_step import FewStepSchedule

__all__ = ["FewStepSchedule", "Pass", "Schedule"]
