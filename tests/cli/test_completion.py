"""The shell completes verbs, options of a recipe's parts, and the names of shipped configurations."""

import shutil
import subprocess

import pytest

pytest.importorskip("shtab")
from lightning_adastate.cli.completion import completion_script

ASK = """
source "$1"
shift
COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$(complete -p lightning-adastate | sed 's/.*-F \\([^ ]*\\).*/\\1/') 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    made = tmp_path_factory.mktemp("completion") / "script.bash"
    made.write_text(completion_script("bash"))
    return made


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["gen"], {"generate"}),
        (["co"], {"compare", "convert", "completion"}),
        (["generate", "--generation.state_o"], {"--generation.state_out"}),
        (["fit", "--trainer.max_s"], {"--trainer.max_steps"}),
        (["fit", "--model.rollo"], {"--model.rollouts"}),
        (["fit", "--config", "toy/adas"], {"toy/adastate", "toy/adastate_recurrent"}),
    ],
)
def test_bash_offers_what_there_is(script, words, offered):
    asked = ["bash", "-c", ASK, "ask", str(script), "lightning-adastate", *words]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered
