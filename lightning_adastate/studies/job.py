"""What one job of a study does, in a process of its own: train a cell, stream it, score it."""

# Shapes: B episodes, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_adastate.analysis.attention import probe_attention
from lightning_adastate.callbacks.graceful_stop import stopped_by
from lightning_adastate.evaluation.arms import Variation
from lightning_adastate.evaluation.tables import write_csv
from lightning_adastate.files import partial_path, save_tensors, write_text
from lightning_adastate.media.video import to_uint8
from lightning_adastate.recipes.comparison import load_comparison
from lightning_adastate.recipes.loading import load_module
from lightning_adastate.recipes.recipe import load_recipe
from lightning_adastate.streaming import PixelStreaming
from lightning_adastate.studies.plan import DONE, Scores, Training
from lightning_adastate.studies.planner import scoring_overrides
from lightning_adastate.training.configuration import read_checkpoint
from lightning_adastate.training.resuming import whole_checkpoints

SHOWN_EPISODES = 4
"""Episodes whose videos are kept for the report."""

STEP_FILE = "step"
SECONDS_BETWEEN_STEPS = 2.0


@dataclass(frozen=True)
class Job:
    """Train, if there is anything to train, and score. Finds what is done already, and goes on where it stopped.

    Args:
        key: What it is known by.
        name: What people call it.
        training: What to train; ``None`` trains nothing.
        scorings: What to score with the weights.
        after: Key of the job that must be done before.
        threads: Threads of its process.
        keep_checkpoints: Leave the checkpoints of a finished training.
    """

    key: str
    name: str
    training: Training | None
    scorings: tuple[Scores, ...]
    after: str | None = None
    threads: int = 1
    keep_checkpoints: bool = False

    def __call__(self) -> None:
        """Do what is not done yet."""
        torch.set_num_threads(self.threads)
        if self.training is not None:
            train(self.training, keep_checkpoints=self.keep_checkpoints)
        for scoring in self.scorings:
            score(scoring)

    def checkpoint(self) -> object:
        """Return what the cluster submits where it takes the machine away: the same job, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return all(part.done for part in self.scorings) and (
            self.training is None or self.training.done
        )

    @property
    def share_done(self) -> float:
        """Return how much of it is done, from 0 to 1; scoring counts as little."""
        if self.training is None or self.training.done:
            return 1.0 if self.done else 0.0
        try:
            step = int((self.training.folder / STEP_FILE).read_text())
        except (OSError, ValueError):  # not begun
            return 0.0
        return min(step / self.training.max_steps, 1.0)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder alone: a worker that outlived a killed study is waited for, not doubled.

    The lock goes with the process that holds it, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock", is_singleton=False):
        yield


# -- training -------------------------------------------------------------------------------------


class StepFile(Callback):
    """Write the step into a file now and then, for whoever waits.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Write, if the last time is long enough ago."""
        del pl_module, outputs, batch, batch_idx
        if time.monotonic() - self._written > SECONDS_BETWEEN_STEPS:
            self._written = time.monotonic()
            write_text(self.path, str(trainer.global_step))


def train(training: Training, *, keep_checkpoints: bool = False) -> None:
    """Train as ``fit`` does with the recipe in the folder, from the newest checkpoint there; keep the weights.

    Raises:
        RuntimeError: If a signal stopped it; the next run goes on from there.
    """
    folder = training.folder
    with locked(folder):
        if training.done:
            return
        recipe_file = folder / "config.yaml"
        write_text(recipe_file, yaml.safe_dump(dict(training.config), sort_keys=False))
        recipe = load_recipe(recipe_file)
        options: dict[str, Any] = {**recipe.trainer}
        options["callbacks"] = [*options["callbacks"], StepFile(folder / STEP_FILE)]
        trainer = Trainer(**options)
        resumed = newest_checkpoint(folder)
        begin = time.monotonic()
        trainer.fit(recipe.module, recipe.data, ckpt_path=resumed, weights_only=True)
        if stopped_by(trainer) is not None:
            raise RuntimeError(
                f"stopped by a signal after step {trainer.global_step}; run the study again, it goes on from there"
            )
        keep_weights(trainer, training.weights)
        about = {
            "name": training.name,
            "mark": folder.name,
            "command": training.command,
            "steps": trainer.global_step,
            "resumed_from": None if resumed is None else resumed.name,
            "seconds_since_then": round(time.monotonic() - begin, 1),
            "torch": torch.__version__,
        }
        write_text(folder / DONE, json.dumps(about, indent=1) + "\n")
        (folder / STEP_FILE).unlink(missing_ok=True)
        for path in [] if keep_checkpoints else list(folder.rglob("*.ckpt")):
            path.unlink()


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that a training can go on from; one that is cut short does not count."""
    return next((path for path, _ in whole_checkpoints(folder.rglob("*.ckpt"))), None)


def keep_weights(trainer: Trainer, path: Path) -> None:
    """Write the generator's average, or the generator where there is none, with its anchor's own parameters."""
    whole = partial_path(path)
    trainer.save_checkpoint(whole, weights_only=True)
    weights = read_checkpoint(whole)["state_dict"]
    whole.unlink()
    assert isinstance(weights, Mapping)
    for prefix in ("generator_ema.", "generator."):
        chosen = {name: value for name, value in weights.items() if name.startswith(prefix)}
        if chosen:
            save_tensors(path, chosen, {"format": "pt"})
            return
    raise ValueError("the trained module has no generator; name a stage of which one streams")


# -- scoring --------------------------------------------------------------------------------------


def score(scoring: Scores) -> None:
    """Stream the weights on the study's episodes and write scores, the first videos and the attention."""
    folder, settings = scoring.folder, scoring.settings
    with locked(folder):
        if scoring.done:
            return
        config = folder / "config.yaml"
        write_text(config, yaml.safe_dump({"model": dict(scoring.model)}, sort_keys=False))
        module = load_module(str(config), weights=scoring.weights)
        comparison = load_comparison(settings.compare, scoring_overrides(settings))
        comparison = replace(comparison, module=module, probe=None)
        compared = comparison.run({"arm": Variation()})
        write_csv(compared.arms, folder / "scores.csv")
        videos = {
            "video": to_uint8(compared.arms["arm"].video_BFCHW[:SHOWN_EPISODES].flatten(0, 1)),
            "truth": to_uint8(compared.truth.video_BFCHW[:SHOWN_EPISODES].flatten(0, 1)),
        }
        shown = min(SHOWN_EPISODES, settings.episodes)
        save_tensors(
            folder / "videos.safetensors",
            {name: video.unflatten(0, (shown, -1)) for name, video in videos.items()},
        )
        about = {
            "name": scoring.name,
            "mark": folder.name,
            "weights": scoring.weights,
            "num_given": comparison.num_given,
            "prompts": compared.truth.prompts[:SHOWN_EPISODES],
            "attention": attention(module, compared.truth.prompts, settings.attention_chunks),
        }
        write_text(folder / DONE, json.dumps(about, indent=1) + "\n")


def attention(
    module: PixelStreaming, prompts: list[str], num_chunks: int
) -> list[dict[str, object]]:
    """Return each cached frame's share of the attention in the last chunk, mean over its noisy passes."""
    if num_chunks == 0:
        return []
    state = module.open_stream(prompts[:SHOWN_EPISODES], seed=0)
    for _, masses in probe_attention(module.streamer, state, num_chunks):
        last = [mass for mass in masses if mass.timestep > 0]
    if not last:
        return []
    alike = [mass for mass in last if len(mass.frames) == len(last[0].frames)]
    shares = torch.stack([mass.by_frame for mass in alike]).mean(0).tolist()
    return [
        {"role": frame.role, "place": frame.place, "share": share}
        for frame, share in zip(last[0].frames, shares, strict=True)
    ]
