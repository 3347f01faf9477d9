"""Single items of a list in a configuration can be set, and nothing beside them changes."""

import pytest
import yaml

from lightning_adastate import load_mechanism
from lightning_adastate.__main__ import main
from lightning_adastate.anchors import StaticAnchor

MEMROPE = "mechanisms/memrope"


def anchors(*overrides):
    return load_mechanism(MEMROPE, overrides).anchor.anchors


def test_one_argument_of_one_item_is_set_and_its_neighbours_stay():
    sink, slow, fast = anchors("--model.anchor.anchors.1.decay=0.5")
    assert (slow.decay, slow.num_frames) == (0.5, 1)
    assert fast.decay == 0.9
    assert sink.num_frames == 3


def test_several_items_and_a_value_that_stands_alone():
    sink, slow, fast = anchors(
        "--model.anchor.anchors.2.decay", "0.25", "--model.anchor.anchors.0.num_frames=2"
    )
    assert (sink.num_frames, slow.decay, fast.decay) == (2, 0.99, 0.25)


def test_an_item_replaced_by_another_class_keeps_no_argument():
    _, slow, _ = anchors("--model.anchor.anchors.1=StaticAnchor")
    assert isinstance(slow, StaticAnchor)
    assert slow.num_frames == StaticAnchor().num_frames


def test_an_item_of_the_list_that_the_line_itself_gives():
    made = anchors(
        "--model.anchor.anchors.0.num_frames=5",
        "--model.anchor.anchors=[{class_path: StaticAnchor, init_args: {num_frames: 1}}]",
    )
    assert [each.num_frames for each in made] == [5]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--model.anchor.anchors.3.decay=0.5", "has no item 3; its items are 0 to 2"),
        ("--model.anchor.anchors.1.decy=0.5", "did you mean decay"),
        ("--model.anchor.anchors.1.decay=much", "expected float, got much"),
        ("--model.anchor.anchors.1.decay=2", "`decay` must be in"),
        ("--model.anchor.num_frames.0=1", "num_frames"),
    ],
)
def test_a_wrong_item_is_one_sentence(override, said):
    with pytest.raises(ValueError, match=said) as caught:
        anchors(override)
    assert "\n" not in str(caught.value)


def test_the_verbs_of_lightning_set_items_too(capsys):
    line = ["generate", "--config=toy/adastate"]
    composed = (
        "--model.anchor={class_path: ComposedAnchor, init_args: {anchors: "
        "[{class_path: StaticAnchor}, {class_path: PooledEMAAnchor, init_args: {decay: 0.75}}]}}"
    )
    line += [composed, "--model.anchor.anchors.0.num_frames=2", "--print_config"]
    assert main(line) == 0
    items = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["anchor"]["init_args"]
    assert items["anchors"][0]["init_args"]["num_frames"] == 2
    assert items["anchors"][1]["init_args"]["decay"] == 0.75


def test_an_item_that_is_not_there_is_bad_input(capsys):
    assert main(["layout", f"--config={MEMROPE}", "--model.anchor.anchors.7.decay=0.5"]) == 2
    assert "has no item 7" in capsys.readouterr().err
