"""From a grid to its plan: configurations parsed, marks taken, starts found. Nothing is built or trained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_adastate.recipes.comparison import comparison_config
from lightning_adastate.recipes.loading import stream_arguments
from lightning_adastate.recipes.recipe import recipe_config
from lightning_adastate.studies.grid import Grid, Scoring, Settings, StudyArm
from lightning_adastate.studies.marks import (
    SCORING_ROOMS,
    TRAINING_ROOMS,
    code_mark,
    config_mark,
    file_mark,
    mark_of,
)
from lightning_adastate.studies.plan import DONE, START, Plan, Row, Scores, Training
from lightning_adastate.weights.files import find_weights

FIT = ("python", "-m", "lightning_adastate", "fit")


class Planner:
    """Work out a grid's trainings, scores and rows. Reads configurations; trains and builds nothing.

    Args:
        grid: What is varied.
        store: Folder of trainings and scores.
        any_code: Take what other versions of the code have made, where this one has nothing.
    """

    def __init__(self, grid: Grid, store: Path, *, any_code: bool = False) -> None:
        self.grid = grid
        self.store = store
        self.any_code = any_code
        scoring = grid.evaluation
        self.comparison = comparison_config(scoring.compare, scoring_overrides(scoring))
        self._configs: dict[str, dict[str, Any]] = {}

    def plan(self) -> Plan:
        """Return the whole plan.

        Raises:
            ValueError: If a cell's configuration does not fit, naming the cell.
        """
        plan = Plan()
        starts: dict[Path, list[tuple[StudyArm, Scores]]] = {}
        ends: list[tuple[StudyArm, list[Row]]] = []
        for arm in self.grid.study_arms():
            start = self._start(arm)
            rows = []
            for seed in self.grid.seeds if arm.stages else ():
                rows += self._trained(arm, seed, plan)
            if arm.stages and start is not None and self.grid.start:
                starts.setdefault(start.folder, []).append((arm, start))
            if not arm.stages:
                if start is None:
                    raise ValueError(
                        f"{arm.name!r} trains nothing and has no weights; set `model.weights`"
                    )
                rows = [Row(arm.name, arm.name, arm.levels, None, None, start)]
            ends.append((arm, rows))
        plan.rows = _in_order(starts, ends)
        return plan

    # -- trainings ------------------------------------------------------------------------------

    def _trained(self, arm: StudyArm, seed: int, plan: Plan) -> list[Row]:
        """Add an arm's trainings with one seed; return a row for each stage that is scored."""
        training: Training | None = None
        rows = []
        for stage in arm.stages:
            training = self._training(arm, stage, seed, training)
            training = plan.trainings.setdefault(training.folder.name, training)
            last = stage == list(arm.stages)[-1]
            if last or self.grid.evaluation.every_stage:
                name = arm.name if last else f"{arm.name} ({stage})"
                scores = self._scores(f"{name}, seed {seed}", training.config, training)
                rows.append(Row(name, arm.name, arm.levels, stage, seed, scores))
        return rows

    def _training(self, arm: StudyArm, stage: str, seed: int, after: Training | None) -> Training:
        settings = arm.settings_of(stage)
        config = self._config(arm, arm.stages[stage], settings)
        for key in self.grid.seed_keys:
            config = _with_value(config, key, seed)
        if after is not None:
            config = _with_value(config, "model.weights", None)
        mark = mark_of(config_mark(config), None if after is None else after.folder.name)
        folder = self._folder("trainings", mark, TRAINING_ROOMS)
        if after is not None:
            config = _with_value(config, "model.weights", str(after.weights))
            settings = (*settings, ("model.weights", str(after.weights)))
        seeded = (*settings, *((key, seed) for key in self.grid.seed_keys))
        command = shlex.join([*FIT, "--config", arm.stages[stage], *overrides(seeded)])
        name = f"{arm.name}, seed {seed}"
        name += f", {stage}" if len(arm.stages) > 1 else ""
        return Training(name, mark, folder, _kept_in(config, folder), after, command)

    def _config(self, arm: StudyArm, recipe: str, settings: Settings) -> dict[str, Any]:
        """Return the whole configuration of a recipe with settings; each is parsed once."""
        key = json.dumps([recipe, settings])
        if key not in self._configs:
            try:
                self._configs[key] = recipe_config(recipe, overrides(settings))
            except ValueError as error:
                raise ValueError(f"the cell {arm.name!r} of {recipe}: {error}") from error
        return self._configs[key]

    # -- scores ---------------------------------------------------------------------------------

    def _start(self, arm: StudyArm) -> Scores | None:
        """Return the scores of the weights that an arm starts from, streamed as its last stage streams."""
        stages = list(arm.stages)
        last = self._config(arm, arm.recipe, arm.settings_of(stages[-1] if stages else None))
        first = last
        if stages:
            first = self._config(arm, arm.stages[stages[0]], arm.settings_of(stages[0]))
        weights = first["model"]["init_args"].get("weights")
        if weights is None:
            return None
        return self._scores(arm.name, last, None, str(weights))

    def _scores(
        self,
        name: str,
        config: Mapping[str, Any],
        training: Training | None,
        weights: str = "",
    ) -> Scores:
        model = {**config["model"], "init_args": {**config["model"]["init_args"], "weights": None}}
        self._check_size(name, model["init_args"].get("frame_size"))
        settings = replace(self.grid.evaluation, every_stage=False)
        made_by = training.folder.name if training else file_mark(find_weights(weights))
        mark = mark_of(
            config_mark({"model": _streaming(model)}),
            made_by,
            {key: self.comparison[key] for key in ("world", "num_given", "episodes", "horizons")},
            [settings.seed, settings.attention_chunks],
        )
        folder = self._folder("scores", mark, SCORING_ROOMS)
        path = str(training.weights) if training else weights
        return Scores(name, folder, model, path, settings, training)

    def _check_size(self, name: str, frame_size: Sequence[int] | None) -> None:
        world = self.comparison["world"]
        size = (world["height"], world["width"])
        if frame_size is not None and tuple(frame_size) != size:
            raise ValueError(
                f"the cell {name!r} makes frames of {tuple(frame_size)} pixels and "
                f"{self.grid.evaluation.compare} scores {size}; make them the same"
            )

    def _folder(self, kind: str, mark: str, rooms: tuple[str, ...]) -> Path:
        """Return where something of this mark is: made by this code, else by another, else still to be made."""
        own = self.store / kind / f"{mark}-{code_mark(rooms)}"
        others = (path.parent for path in (self.store / kind).glob(f"{mark}-*/{DONE}"))
        if not self.any_code or (own / DONE).is_file():
            return own
        return max(others, key=lambda path: (path / DONE).stat().st_mtime_ns, default=own)


def _streaming(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a configured module a stream depends on, but for its weights."""
    class_path, arguments = stream_arguments(model["class_path"], model["init_args"])
    return {"class_path": class_path, "init_args": {**arguments, "weights": None}}


def scoring_overrides(scoring: Scoring) -> list[str]:
    """Return the options of ``compare`` that a study sets."""
    return [
        f"--episodes={scoring.episodes}",
        f"--horizons={json.dumps(scoring.horizons)}",
        f"--seed={scoring.seed}",
    ]


def overrides(settings: Settings) -> list[str]:
    """Return keys and values as options of the command line."""
    return [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings
    ]


def _with_value(config: Mapping[str, Any], key: str, value: object) -> dict[str, Any]:
    """Return a configuration with one value changed; ``model.seed`` stands under ``init_args``."""
    head, _, rest = key.partition(".")
    if head not in config:
        raise ValueError(f"there is no option {key!r} in these recipes; see `seed_keys`")
    if not rest:
        return {**config, head: value}
    group = config[head]
    if isinstance(group, Mapping) and "init_args" in group:
        return {
            **config,
            head: {**group, "init_args": _with_value(group["init_args"], rest, value)},
        }
    return {**config, head: _with_value(group or {}, rest, value)}


def _kept_in(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a recipe that writes into one folder and shows nothing."""
    callbacks = config["trainer"].get("callbacks") or []
    trainer = {
        **config["trainer"],
        "logger": {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": str(folder), "name": "", "version": "log"},
        },
        "callbacks": [_saving_in(each, folder / "checkpoints") for each in callbacks],
        "default_root_dir": str(folder),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return {**config, "trainer": trainer}


def _saving_in(callback: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    if "dirpath" not in callback.get("init_args", {}):
        return callback
    return {**callback, "init_args": {**callback["init_args"], "dirpath": str(folder)}}


def _in_order(
    starts: Mapping[Path, Sequence[tuple[StudyArm, Scores]]],
    ends: Sequence[tuple[StudyArm, Sequence[Row]]],
) -> list[Row]:
    """Return all rows, each start in front of the first arm that began there."""
    named = {row.scores.folder: row.name for _, rows in ends for row in rows if row.stage is None}
    rows: list[Row] = []
    for arm, own in ends:
        begun = next((f for f, users in starts.items() if any(a is arm for a, _ in users)), None)
        if begun is not None and begun not in named:
            users = [user for user, _ in starts[begun]]
            named[begun] = _start_name(users, len(ends), set(named.values()))
            scores = replace(starts[begun][0][1], name=named[begun])
            rows.append(Row(named[begun], None, _shared(users), None, None, scores))
        rows += [replace(row, start=named.get(begun) if begun else None) for row in own]
    return rows


def _shared(arms: Sequence[StudyArm]) -> dict[str, str]:
    """Return the levels that all of these arms have in common."""
    first, *others = arms
    return {
        axis: level
        for axis, level in first.levels.items()
        if all(other.levels.get(axis) == level for other in others)
    }


def _start_name(arms: Sequence[StudyArm], num_arms: int, taken: set[str]) -> str:
    """Name a start after what its arms have in common."""
    words = list(_shared(arms).values()) or ([arms[0].name] if len(arms) == 1 else [])
    name = ", ".join([START, *words] if len(arms) < num_arms else [START])
    return name if name not in taken else f"{START}, {arms[0].name}"
