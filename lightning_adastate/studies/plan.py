"""What a study needs: trainings, scores and the rows they fill; each is known by the mark of what makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_adastate.studies.grid import Scoring

DONE = "done.json"
"""Written last: what has it is whole."""

START = "start"
"""First word of the rows that show the weights before training."""


@dataclass(frozen=True)
class Training:
    """One run of one stage.

    Args:
        name: What people call it.
        mark: Of its configuration, files, data and what it starts from; the code is in the folder's name.
        folder: Where it is, or will be.
        config: The whole recipe.
        after: The training whose weights it starts from.
        command: What would train it by hand, up to the first weights of a later stage.
    """

    name: str
    mark: str
    folder: Path
    config: Mapping[str, Any]
    after: Training | None
    command: str

    @property
    def done(self) -> bool:
        """Whether it is there and whole."""
        return (self.folder / DONE).is_file()

    @property
    def weights(self) -> Path:
        """Name the file of its averaged weights."""
        return self.folder / "weights.safetensors"

    @property
    def max_steps(self) -> int:
        """Return the optimiser steps it takes; 1 if its recipe counts otherwise."""
        return max(1, int(self.config["trainer"].get("max_steps") or 1))


@dataclass(frozen=True)
class Scores:
    """One set of weights, streamed and scored.

    Args:
        name: What people call it.
        folder: Where they are, or will be.
        model: Configuration of what streams.
        weights: The file.
        settings: How it is scored.
        training: What makes the weights; ``None`` if they are there.
    """

    name: str
    folder: Path
    model: Mapping[str, Any]
    weights: str
    settings: Scoring
    training: Training | None

    @property
    def done(self) -> bool:
        """Whether they are there and whole."""
        return (self.folder / DONE).is_file()


@dataclass(frozen=True)
class Row:
    """One line of the study: an arm, after a stage, with a seed.

    Args:
        name: What the tables call it; the same for all seeds.
        arm: The arm; ``None`` where several share a start.
        levels: Where it stands on each axis, as far as it does.
        stage: What trained it last; ``None`` if nothing did.
        seed: Training seed; ``None`` if nothing was trained.
        scores: What it scored.
        start: Name of the row with the weights that it started from, streamed likewise.
    """

    name: str
    arm: str | None
    levels: Mapping[str, str]
    stage: str | None
    seed: int | None
    scores: Scores
    start: str | None = None


@dataclass
class Plan:
    """Everything a study needs.

    Args:
        rows: Its lines, starts before what started from them.
        trainings: By their folders' names, each behind what it starts from.
    """

    rows: list[Row] = field(default_factory=list)
    trainings: dict[str, Training] = field(default_factory=dict)
