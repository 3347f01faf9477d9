"""`serve` on the command line: what it builds of a configuration, and what it refuses before it listens or streams."""

import sys

import pytest

from lightning_adastate.__main__ import main
from lightning_adastate.recipes.names import resolve_arguments
from lightning_adastate.serve.loading import build_session, options_of, serve_parser
from lightning_adastate.serve.options import Serving


def built(*args):
    """The session that `serve` streams with these arguments."""
    given = resolve_arguments(list(args))
    parser = serve_parser(given)
    parsed = parser.parse_args(given)
    return build_session(parser, parsed, options_of(parser, parsed))


def test_a_comparison_brings_its_world_and_its_anchors():
    session = built("--config", "toy/memory", "--anchor", "static", "--seed", "4")
    assert list(session.modules) == ["none", "static", "EMA", "adaptive"]
    assert session.lanes[0].at.anchor == "static"
    (made,) = session.step()
    assert made.at.prompt in session.opening.examples
    assert made.chunk.number == 1  # behind the given frames
    assert made.reading.asked > 0
    assert made.reading.drift < 0.2
    assert made.reading.identity < 0.2  # the hero is in the open, as it was given


def test_a_recipe_brings_its_own_anchor_and_those_that_are_named():
    named = "{nothing: {class_path: StaticAnchor, init_args: {num_frames: 0}}}"
    session = built(
        "--config=toy/adastate", "--prompt", "drifting slowly east", "--anchors", named
    )
    assert list(session.modules) == ["nothing", "AdaptiveAnchor"]
    (made,) = session.step()
    assert (made.at.anchor, made.at.prompt) == ("AdaptiveAnchor", "drifting slowly east")
    assert (made.reading.asked, made.reading.identity) == (None, None)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--config", "toy/memory", "--fps", "0"], 2, "`fps` must be 1 or more, got 0"),
        (["--config", "toy/memory", "--port", "70000"], 2, "`port` must be 0 to 65535, got 70000"),
        (
            ["--config", "toy/memory", "--state_in", "lost.safetensors"],
            2,
            "no session 'lost.safet",
        ),
        (["--config", "toy/memory", "--state_out", "x.pt"], 2, "must end in .safetensors"),
        (["--config", "toy/memory", "--prot", "1"], 2, "there is no option --prot"),
        (["--port", "0"], 2, "for example toy/memory"),
        (["--config", "toy/memory", "--port", "0", "--anchor", "x"], 1, "there is no anchor 'x'"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(args, code, said, capsys):
    assert main(["serve", *args]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_without_its_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("lightning_adastate.serve.")]:
        if name.endswith((".server", ".app")):
            monkeypatch.delitem(sys.modules, name)
    assert main(["serve", "--config", "toy/memory"]) == 1
    assert "pip install 'lightning-adastate[serve]'" in capsys.readouterr().err


def test_a_session_without_a_name_never_replaces_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    serving = Serving()
    assert str(serving.state_path()) == "outputs/serve.safetensors"
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/serve.safetensors").touch()
    assert str(serving.state_path()) == "outputs/serve_2.safetensors"
