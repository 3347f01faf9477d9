"""A grid's cells: combinations of axes, named arms, stages of their own, and what goes on top of which stage."""

import pytest

from lightning_adastate.studies.grid import Grid, level_name

ANCHORS = {"static": {"model.anchor": "anchors/static"}, "none": {"model.anchor": "anchors/none"}}


def test_cells_are_all_combinations_and_then_the_named_arms():
    grid = Grid(
        recipe="toy/adastate",
        axes={"anchor": ANCHORS, "model.loss.weighting.alpha": [0, 2]},
        arms={"wide": {"model.anchor": "anchors/none", "model.cache.window_frames": 9}},
    )
    names = [arm.name for arm in grid.study_arms()]
    assert names == [
        "static, alpha 0",
        "static, alpha 2",
        "none, alpha 0",
        "none, alpha 2",
        "wide",
    ]
    second = grid.study_arms()[1]
    assert second.levels == {"anchor": "static", "model.loss.weighting.alpha": "alpha 2"}
    assert second.settings_of("adastate") == (
        ("model.anchor", "anchors/static"),
        ("model.loss.weighting.alpha", 2),
    )


def test_a_setting_for_one_stage_stays_out_of_the_others():
    grid = Grid(
        stages={"forced": "toy/causal", "distilled": "toy/adastate"},
        settings={"trainer.max_steps": 5, "distilled/model.kv_gradient": "state"},
        arms={"a": {"forced/trainer.max_steps": 9}},
    )
    (arm,) = grid.study_arms()
    assert arm.stages == {"forced": "toy/causal", "distilled": "toy/adastate"}
    assert arm.settings_of("forced") == (("trainer.max_steps", 5), ("trainer.max_steps", 9))
    assert arm.settings_of("distilled") == (
        ("trainer.max_steps", 5),
        ("model.kv_gradient", "state"),
    )


def test_a_class_is_set_before_its_arguments_wherever_they_stand():
    own = {"model.anchor": "EMAAnchor"}
    grid = Grid(recipe="a", settings={"model.anchor.decay": 0.9}, arms={"EMA": own})
    (arm,) = grid.study_arms()
    assert [key for key, _ in arm.settings_of("a")] == ["model.anchor", "model.anchor.decay"]


def test_an_arm_may_have_stages_of_its_own_or_none():
    grid = Grid(
        recipe="toy/adastate",
        arms={"untrained": {"stages": []}, "other": {"stages": ["toy/causal"]}, "same": None},
    )
    found = {arm.name: dict(arm.stages) for arm in grid.study_arms()}
    assert found == {
        "untrained": {},
        "other": {"causal": "toy/causal"},
        "same": {"adastate": "toy/adastate"},
    }


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("model.anchor", "anchors/ema.yaml", "ema"),
        ("model.anchor", {"class_path": "mine.Deep", "init_args": {}}, "Deep"),
        ("model.loss.weighting.alpha", 0.5, "alpha 0.5"),
        ("forced/trainer.max_steps", 3, "max_steps 3"),
    ],
)
def test_levels_have_short_names(key, value, name):
    assert level_name(key, value) == name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give a `recipe`"),
        ({"recipe": "a", "stages": ["b"]}, "one of the two"),
        ({"recipe": "a"}, "nothing to compare"),
        ({"recipe": "a", "arms": {"x": {}}, "seeds": [1, 1]}, "different numbers"),
        ({"recipe": "a", "arms": {"x": {}}, "seeds": []}, "one or more"),
        ({"recipe": "a", "arms": {"x": 3}}, "`arms.x` must be a mapping"),
        (
            {"recipe": "a", "axes": {"model.anchor": "static"}},
            "`axes.model.anchor` must be a list",
        ),
        ({"recipe": "a", "axes": {"model.anchor": []}}, "`axes.model.anchor` must be a list"),
        ({"recipe": "a", "axes": {"k": [1, 1]}}, "two cells are called 'k 1'"),
        ({"recipe": "a", "arms": {"x": {"late/model.seed": 1}}}, "a stage 'late'"),
        ({"recipe": "a", "arms": {"x": {"stages": "toy/causal"}}}, "`stages` must be a list"),
        ({"stages": ["toy/a", "wan/a"], "arms": {"x": {}}}, "have one name"),
    ],
)
def test_what_is_no_grid_is_refused_in_one_sentence(given, said):
    with pytest.raises(ValueError, match=said):
        Grid(**given)
