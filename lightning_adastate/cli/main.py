"""The verbs that need a model: LightningCLI with `generate`, short class names, and no surprises."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from lightning_adastate.callbacks.video_predictions import VideoPredictionWriter
from lightning_adastate.cli.early_exit import work_begins
from lightning_adastate.cli.progress import show_no_wrong_epoch
from lightning_adastate.cli.stopping import told_of_signals
from lightning_adastate.generation.options import Generation
from lightning_adastate.generation.timeline import Change
from lightning_adastate.generation.trainer import StreamTrainer
from lightning_adastate.recipes.loading import import_families, streaming_part
from lightning_adastate.recipes.recipe import DEFAULT_SEED, RecipeParser, build_in_format
from lightning_adastate.training.base import StreamModule
from lightning_adastate.training.resuming import check_checkpoint, newest_checkpoint
from lightning_adastate.training.trainers import last_checkpoint

HARMLESS = (
    ".*isinstance.treespec.*",  # torch's, about Lightning
    ".*in eval mode at the start of training.*",  # teacher, average and codec are meant to be
    ".*manual optimization and every_n_train_steps.*",  # the state after the step is what we want
    ".*smaller than the logging interval.*",
    ".*dirpath has changed.*",  # a resumed run writes to a folder of its own
    ".*set_vital.*",  # torch's, about torchdata
)
"""Warnings of libraries that no user of ours can act on."""


class SaveConfig(SaveConfigCallback):
    """Keep the configuration beside the logs and, as text, in every checkpoint."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the configuration to the module; write nothing yet: a refused run leaves no file."""
        del trainer, stage
        assert isinstance(pl_module, StreamModule)
        pl_module.recipe_text = self.text()

    def text(self) -> str:
        """Return the configuration."""
        return str(self.parser.dump(self.config, skip_none=False, skip_link_targets=False))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it beside the logs."""
        super().setup(trainer, pl_module, "fit")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it beside the logs."""
        super().setup(trainer, pl_module, "validate")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it beside the logs."""
        super().setup(trainer, pl_module, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it beside the logs."""
        super().setup(trainer, pl_module, "predict")


class CLI(LightningCLI):
    """Parse, build, run. What is asked for on the command line is what runs."""

    def __init__(self, args: Sequence[str]) -> None:
        self.verb = args[0]
        self.exit_code = 0
        super().__init__(
            StreamModule,
            trainer_class=StreamTrainer,
            parser_class=RecipeParser,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            seed_everything_default=DEFAULT_SEED,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            load_from_checkpoint_support=False,
            args=list(args),
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the verb, and the arguments of the Trainer's method that are not options.

        Parsers of the other verbs would take a second, and are not asked.
        """
        verbs = {**LightningCLI.subcommands(), "generate": {"model", "generation", "datamodule"}}
        return {self.verb: verbs[self.verb]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Name the program as it is called."""
        kwargs.setdefault("prog", "lightning_adastate")
        return super().init_parser(**kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what was given, and nothing from elsewhere."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would replace the model's arguments by those of the checkpoint.

        The one private method that is overridden here: there is no option to turn it off, and it reads the whole
        checkpoint once more.
        """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Every verb accepts every configuration, so all of them know the groups `generation` and `prediction`."""
        parser.add_class_arguments(Generation, "generation", instantiate=False)
        if self.verb == "predict":
            parser.add_lightning_class_args(VideoPredictionWriter, "prediction")
        else:
            parser.add_class_arguments(VideoPredictionWriter, "prediction", instantiate=False)

    def before_instantiate_classes(self) -> None:
        """Check what is asked for before anything is built; for `generate` build only what streams."""
        build_in_format(self.parser, self.config[self.subcommand].trainer.precision)
        if self.subcommand != "generate":
            asked = self.config[self.subcommand]
            asked.weights_only = asked.weights_only is not False  # Lightning's default runs code
            check_checkpoint(
                asked.ckpt_path,
                weights_only=asked.weights_only,
                class_path=asked.model.class_path,
            )
            return
        config = self.config["generate"]
        changes = [Change(**change) for change in config.generation.timeline or []]
        self.generation = Generation(**{**config.generation, "timeline": changes})
        weights = self.generation.weights or config.ckpt_path
        config.model = streaming_part(config.model, weights)
        self.generation.weights, config.ckpt_path = None, None  # the module is built with them
        config.data = None
        config.trainer.callbacks = None
        config.trainer.logger = False

    def fit(self, model: StreamModule, **options: Any) -> None:
        """Train, and say where the weights are and how they are streamed."""
        self.ask_trainer("fit", model, options)
        saved = last_checkpoint(self.trainer)
        if not self.trainer.is_global_zero:
            return
        if saved is None:
            print("no checkpoint was written: none was due; --trainer.callbacks sets when")
            return
        path = os.path.relpath(saved)
        print(f"written to {path}; `generate` streams it with --ckpt_path {path}")

    def validate(self, model: StreamModule, **options: Any) -> None:
        """Score the videos set aside."""
        self.ask_trainer("validate", model, options)

    def test(self, model: StreamModule, **options: Any) -> None:
        """Score the videos set aside."""
        self.ask_trainer("test", model, options)

    def predict(self, model: StreamModule, **options: Any) -> None:
        """Write videos: of a file of prompts, or of the captions of the videos set aside."""
        self.ask_trainer("predict", model, options)

    def ask_trainer(self, verb: str, model: StreamModule, options: dict[str, Any]) -> None:
        """Run one of the Trainer's own verbs, from the newest checkpoint of the run if that is asked for."""
        work_begins()
        show_no_wrong_epoch(self.trainer)
        with told_of_signals(self.trainer):
            if options.get("ckpt_path") == "last":
                savers = [one for one in self.trainer.callbacks if isinstance(one, SaveConfig)]  # type: ignore[attr-defined]
                model.recipe_text = savers[0].text() if savers else None
                options["ckpt_path"] = newest = newest_checkpoint(self.trainer, model)
                if self.trainer.is_global_zero:
                    print(f"going on from {os.path.relpath(newest)}", file=sys.stderr)
            getattr(self.trainer, verb)(model, **options)

    def after_predict(self) -> None:
        """Say where the videos are."""
        writer: VideoPredictionWriter = self._get(self.config_init, "prediction")
        if self.trainer.is_global_zero:
            before = f", {writer.num_found} were there already" if writer.num_found else ""
            print(f"{writer.num_made} videos written to {writer.folder}{before}")

    def generate(self, model: StreamModule, **options: Any) -> None:
        """Stream."""
        work_begins()
        assert isinstance(self.trainer, StreamTrainer)
        self.exit_code = self.trainer.generate(model, self.generation, **options)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what libraries say that no user can act on, for as long as this is open."""
    said = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = said.level
    with warnings.catch_warnings():
        for message in HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        said.setLevel(logging.WARNING)
        try:
            yield
        finally:
            said.setLevel(level)


def run(args: Sequence[str]) -> int:
    """Run one verb and return its exit code."""
    import_families()
    try:
        with quiet():
            return CLI(args).exit_code
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
