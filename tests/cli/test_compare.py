"""compare: what cannot be compared is refused in one sentence, before anything is streamed."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from lightning_adastate.__main__ import main
from lightning_adastate.weights import load_weights

SMALL = [
    "--config=toy/compare",
    "--model.weights=null",
    "--model.backbone.num_layers=1",
    "--episodes=2",
    "--horizons=[9]",
]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JSONARGPARSE_DEBUG", raising=False)
    return tmp_path


MISTAKES = {
    "one episode": (["--episodes=1"], "`episodes` must be 2 or more, got 1"),
    "no horizon": (["--horizons=[]"], "`horizons` must be 7 frames or more"),
    "short horizon": (["--horizons=[9,5]"], "`horizons` must be 7 frames or more"),
    "lone horizon": (["--horizons=9"], "horizons: expected a list, got 9; write [9]"),
    "nothing given": (["--num_given=0"], "`num_given` must be 1 or more"),
    "half a chunk given": (["--num_given=2"], "given frames must fill whole chunks"),
    "seed": (["--seed=-1"], "`seed` 0 or more, got 3 and -1"),
    "no arm": (["--anchors={}"], "`anchors` must name at least one arm"),
    "misspelt arm": (
        ["--anchors={a: StaticAnchr}"],
        "no Anchor 'StaticAnchr'; known are Adaptive",
    ),
    "size": (["--world.height=16"], "`world` is 16 x 16 pixels, `model.frame_size` is 8 x 16"),
    "folder": (["--output=file/results"], "cannot make the folder 'file/results'"),
    "both": (["--arms={none: {}}"], "`anchors` and `arms` both name 'none'"),
    "arm that does not fit": (
        ["--arms={x: {cache: {class_path: SlidingCache, init_args: {window_frames: 2}}}}"],
        "`window_frames` 2 is smaller than a chunk of 3",
    ),
    "key": (["--config=key.yaml"], "there is no option 'modle'; did you mean model?"),
    "another verb's recipe": (["--config=toy/adastate"], "for example toy/compare"),
    "weights": (["--weights=none.safetensors"], "there is no weights file 'none.safetensors'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(mistake, capsys):
    args, expected = MISTAKES[mistake]
    Path("file").touch()
    Path("key.yaml").write_text("modle: {}")
    assert main(["compare", *SMALL, *args]) in (1, 2)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, lines
    assert expected in lines[0]
    assert "ideal" not in captured.out, "refused before the work, not after it"
    assert {path.name for path in Path().iterdir()} == {"file", "key.yaml"}


def test_arms_are_swapped_and_changed_on_the_command_line(capsys):
    arms = "--anchors={short: {class_path: EMAAnchor, init_args: {num_frames: 2}}, none: StaticAnchor}"
    more = ["--anchors.none.num_frames=0", "--anchors.short=ReplacementAnchor"]
    assert main(["compare", *SMALL, arms, *more, "--output=results"]) == 0
    rows = Path("results/scores.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"short", "none"}
    assert main(["compare", *SMALL, arms, *more, "--print_config"]) == 0
    assert "ReplacementAnchor\n    init_args:\n      num_frames: 1\n" in capsys.readouterr().out


def test_arms_may_differ_in_cache_schedule_noise_and_weights():
    Path("arms.yaml").write_text(
        """
anchors: {none: {class_path: StaticAnchor, init_args: {num_frames: 0}}}
arms:
  same: {}
  repeated: {noise: RepeatedNoise}
  rolling:
    cache: {class_path: RelativisticCache, init_args: {window_frames: 9}}
    schedule: {class_path: RollingSchedule, init_args: {steps: [1000, 500], shift: 1.0}}
"""
    )
    assert main(["compare", *SMALL, "--config=arms.yaml", "--output=results"]) == 0
    rows = [row.split(",") for row in Path("results/scores.csv").read_text().splitlines()[1:]]
    scores = {name: [row[1:] for row in rows if row[0] == name] for name in ("none", "same")}
    assert scores["none"] == scores["same"]
    assert {row[0] for row in rows} == {"none", "same", "repeated", "rolling"}
    assert scores["none"] != [row[1:] for row in rows if row[0] == "repeated"]


def test_an_arm_that_streams_no_numbers_is_named(capsys):
    """Finite weights that overflow; scores of NaN would be rows of the table, and the exit code 0."""
    weights = load_weights("toy/generator.safetensors")
    weights["head.head.weight"] *= 1e38
    save_file(weights, "broken.safetensors")
    arms = "--arms={fine: {}, broken: {weights: broken.safetensors}}"
    assert main(["compare", "--config=toy/compare", *SMALL[3:], arms, "--anchors={}"]) == 1
    assert "the videos of arm 'broken' are not finite" in capsys.readouterr().err


def test_a_world_whose_hero_hides_gets_its_returns_counted(capsys, tmp_path):
    world = "{max_speed: 1.2, slowest: 2, landmark_columns: [3], landmark_spacing: 12, texture_period: 12}"
    options = ["--model.weights=toy/generator.safetensors", "--model.backbone.num_layers=4"]
    assert main(["compare", *SMALL, *options, f"--world={world}", "--horizons=[24]"]) == 0
    told = capsys.readouterr().out
    for word in ("retention", "cycles", "retention.csv"):
        assert word in told
    scores = (tmp_path / "outputs/compare/scores.csv").read_text().splitlines()
    assert scores[0].endswith("hero,retention,cycles")
    rows = (tmp_path / "outputs/compare/retention.csv").read_text().splitlines()
    assert rows[0] == "arm,episode,cycle,hidden,returned,kept"
