"""The wheel is whole: installed outside the repository, without extras, it generates a video."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = ("diffusers", "transformers", "accelerate", "ftfy", "peft", "lmdb", "submitit", "pandas")
EXTRAS += ("tensorboard", "wandb", "shtab", "cv2", "opencv_python_headless", "triton")


def run(*command, cwd):
    """What a command prints; the checkout is not on its path."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.nightly  # builds a wheel, in an environment that pip makes for it
def test_the_wheel_generates_without_extras_outside_the_repository(tmp_path):
    """The dependencies are links to those of this environment, without what extras name: a copy of torch takes minutes."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path / "dist"), str(ROOT), cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("lightning_adastate-*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    run(*pip, f"--python={python}", "install", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        name = entry.name.split("-")[0]
        if entry.suffix != ".pth" and name not in (*EXTRAS, "lightning_adastate", "__pycache__"):
            (site / entry.name).symlink_to(entry)
    where = run(
        python, "-c", "import lightning_adastate; print(lightning_adastate.__file__)", cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(site)
    words = ["--generation.prompts", "drifting slowly west", "--generation.num_chunks", "2"]
    words += ["--generation.output", "west.mp4"]
    command = tmp_path / "env" / "bin" / "lightning-adastate"
    said = run(command, "generate", "--config", "toy/adastate", *words, cwd=tmp_path)
    assert "written to west.mp4" in said
    assert (tmp_path / "west.mp4").stat().st_size > 500
