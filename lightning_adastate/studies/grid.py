"""What a study varies: axes, named arms, training seeds, and how the result is scored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

Settings = tuple[tuple[str, Any], ...]
"""Configuration keys and their values, in the order in which they are given to the parser."""

EXTRA = "a study needs submitit and pandas: pip install 'lightning-adastate[ablate]'"

STAGES_KEY = "stages"
"""The one key of a level or an arm that is no configuration key: recipes of its own."""


@dataclass
class Scoring:
    """How weights are streamed and scored: as ``compare`` does, with the cell's own anchor, cache and schedule.

    Args:
        compare: Configuration of ``compare`` that names the world and the given frames; its arms are left aside.
        episodes: Paired episodes.
        horizons: Lengths in frames at which every stream is scored.
        seed: Of episodes and noise; no training sees it.
        every_stage: Score after each stage, not only after the last.
        attention_chunks: Chunks to stream with the attention probe; 0 measures none.
    """

    compare: str = "toy/compare"
    episodes: int = 64
    horizons: list[int] = field(default_factory=lambda: [21, 126])
    seed: int = 2000
    every_stage: bool = False
    attention_chunks: int = 0


@dataclass(frozen=True)
class StudyArm:
    """One configuration, trained once per seed.

    Args:
        name: Its name in tables.
        levels: Where it stands on each axis.
        stages: Recipes that train it, in their order, by name; each starts from the last one's weights.
        recipe: What streams it where no stage does.
        settings: Keys and values on top of the recipes; ``stage/key`` is for one stage alone.
    """

    name: str
    levels: Mapping[str, str]
    stages: Mapping[str, str]
    recipe: str
    settings: Settings

    def settings_of(self, stage: str | None) -> Settings:
        """Return what goes on top of one stage's recipe; of ``None`` what all stages share."""
        parted = [(key.rpartition("/"), value) for key, value in self.settings]
        return tuple((key, value) for (of, _, key), value in parted if of in ("", stage))


@dataclass
class Grid:
    """What a study trains and scores.

    Args:
        recipe: The recipe that trains a cell, by name or file.
        stages: Recipes in sequence instead, each starting from the last one's averaged weights: a list, or a
            mapping of a stage's name to its recipe.
        settings: Keys and values for all cells: ``{trainer.max_steps: 60}``; ``stage/key`` is for one stage alone.
        axes: A configuration key and a list of its values, or an axis name and a mapping of a level's name to keys
            and values. Values may be names of shipped configurations. Cells are all combinations.
        arms: Cells beside the combinations, by name: keys and values each. Arms and levels may name ``stages`` of
            their own; ``stages: []`` trains nothing.
        seeds: Training seeds; every cell is trained once with each.
        seed_keys: Keys that the training seed goes to.
        baseline: Name of the cell that all are compared with; ``null`` is the first.
        start: Also score the weights that training starts from, streamed as each cell is.
        metrics: Scores in the tables and plots; ``null`` takes those that say most. Files always hold all.
        evaluation: How weights are scored.

    Raises:
        ValueError: If there is nothing to train, or a name is unknown or given twice.
    """

    recipe: str | None = None
    stages: list[str] | dict[str, str] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, Any] = field(default_factory=dict)
    arms: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    seed_keys: list[str] = field(
        default_factory=lambda: ["seed_everything", "model.seed", "data.seed"]
    )
    baseline: str | None = None
    start: bool = True
    metrics: list[str] | None = None
    evaluation: Scoring = field(default_factory=Scoring)

    def __post_init__(self) -> None:
        if (self.recipe is None) == (self.stages is None):
            raise ValueError("give a `recipe` that trains the cells, or `stages`, one of the two")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(
                f"`seeds` must be one or more different numbers from 0 on, got {self.seeds}"
            )
        if not self.study_arms():
            raise ValueError("`axes` and `arms` are both empty: there is nothing to compare")

    def study_arms(self) -> list[StudyArm]:
        """Return every combination of the axes, then the named arms.

        Raises:
            ValueError: If two have one name, or a setting is for a stage that there is not.
        """
        arms = [self._combined(levels) for levels in self._combinations()]
        arms += [self._named(name, content) for name, content in self.arms.items()]
        names = [arm.name for arm in arms]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(
                f"two cells are called {twice[0]!r}; name the levels: an axis may be a mapping of names"
            )
        common = set(_stages(self.stages if self.recipe is None else [str(self.recipe)]))
        for arm in arms:
            _check_stages(arm, common | set(arm.stages))
        return arms

    def _combinations(self) -> Iterator[tuple[tuple[str, str, Mapping[str, Any]], ...]]:
        """Yield for every combination (axis, level's name, level's content) of each axis."""
        if not self.axes:
            return
        yield from itertools.product(*(_levels(key, levels) for key, levels in self.axes.items()))

    def _combined(self, levels: Sequence[tuple[str, str, Mapping[str, Any]]]) -> StudyArm:
        name = ", ".join(level for _, level, _ in levels)
        content: dict[str, Any] = {}
        for _, _, part in levels:
            content.update(part)
        return self._arm(name, {axis: level for axis, level, _ in levels}, content)

    def _named(self, name: str, content: object) -> StudyArm:
        return self._arm(str(name), {}, _mapping(f"arms.{name}", content))

    def _arm(self, name: str, levels: Mapping[str, str], content: Mapping[str, Any]) -> StudyArm:
        common = _stages(self.stages if self.recipe is None else [self.recipe])
        stages = _stages(content[STAGES_KEY]) if STAGES_KEY in content else common
        own = {key: value for key, value in content.items() if key != STAGES_KEY}
        recipe = list((stages or common).values())[-1]
        settings = {**self.settings, **own}.items()
        # A class before its arguments: a change of class drops those of the old one.
        ordered = tuple(sorted(settings, key=lambda setting: setting[0].count(".")))
        return StudyArm(name, levels, stages, recipe, ordered)


def _stages(given: object) -> dict[str, str]:
    """Return recipes by a stage's name; in a list a recipe's own last word is the name."""
    if isinstance(given, Mapping):
        return {str(name): str(recipe) for name, recipe in given.items()}
    if isinstance(given, Sequence) and not isinstance(given, str):
        stages = {PurePosixPath(str(recipe)).stem: str(recipe) for recipe in given}
        if len(stages) == len(given):
            return stages
        raise ValueError(f"two of the `stages` {given} have one name; write a mapping of names")
    raise ValueError(f"`stages` must be a list of recipes or a mapping of names, got {given!r}")


def _levels(axis: str, given: object) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return (axis, level's name, keys and values) of every level of an axis."""
    if isinstance(given, Mapping) and given:
        return [
            (axis, str(name), _mapping(f"axes.{axis}.{name}", part))
            for name, part in given.items()
        ]
    if isinstance(given, Sequence) and not isinstance(given, str) and given:
        return [(axis, level_name(axis, value), {axis: value}) for value in given]
    raise ValueError(
        f"`axes.{axis}` must be a list of values, or a mapping of names to keys and values, got {given!r}"
    )


def level_name(key: str, value: object) -> str:
    """Return what to call a key's value: ``static`` for ``anchors/static``, ``alpha 2`` for a number.

    >>> level_name("model.anchor", "anchors/static"), level_name("model.loss.weighting.alpha", 2)
    ('static', 'alpha 2')
    """
    if isinstance(value, Mapping) and "class_path" in value:
        return str(value["class_path"]).rpartition(".")[2]
    if isinstance(value, str) and "/" in value:
        return PurePosixPath(value).stem
    return f"{key.rpartition('/')[2].rpartition('.')[2]} {value}"


def _mapping(where: str, content: object) -> Mapping[str, Any]:
    if content is None:
        return {}
    if isinstance(content, Mapping):
        return content
    raise ValueError(f"`{where}` must be a mapping of keys to values, got {content!r}")


def _check_stages(arm: StudyArm, known: set[str]) -> None:
    for key, _ in arm.settings:
        stage = key.rpartition("/")[0]
        if stage and stage not in known:
            raise ValueError(
                f"the setting {key!r} of {arm.name!r} is for a stage {stage!r}, which there is not; "
                f"stages are {', '.join(sorted(known))}"
            )
