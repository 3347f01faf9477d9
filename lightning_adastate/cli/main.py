"""The verbs that need a model: LightningCLI with `generate`, short class names, and no surprises."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import (
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from lightning.pytorch.strategies import DDPStrategy

from lightning_adastate.backbones import Backbone
from lightning_adastate.callbacks import ExactResume, GracefulStop
from lightning_adastate.generation.generate import Generation, generate
from lightning_adastate.generation.timeline import Change
from lightning_adastate.recipes.loading import check_checkpoint, import_families, streaming_part
from lightning_adastate.recipes.parser import SentenceParser
from lightning_adastate.training.base import StreamModule
from lightning_adastate.training.networks import built_in

HARMLESS = (
    ".*isinstance.treespec.*",  # torch's, about Lightning
    ".*in eval mode at the start of training.*",  # teacher, average and codec are meant to be
    ".*manual optimization and every_n_train_steps.*",  # the state after the step is what we want
    ".*smaller than the logging interval.*",
    ".*set_vital.*",  # torch's, about torchdata
)
"""Warnings of libraries that no user of ours can act on."""


HALF = {"bf16-true": torch.bfloat16, "16-true": torch.float16}
"""Precisions whose weights take two bytes."""


class Parser(SentenceParser, LightningArgumentParser):
    """LightningCLI's parser with our errors."""


class StreamTrainer(Trainer):
    """A Trainer that can also stream."""

    def generate(
        self,
        model: StreamModule,
        generation: Generation,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> int:
        """Stream video from prompts, a clip or a saved state, for as long as you like.

        Args:
            model: The components of the stream.
            generation: What to generate, and where to put it.
            datamodule: Not used.
            ckpt_path: Training checkpoint to take the weights from, if `generation.weights` is not given.
            weights_only: Not used: weights are always loaded without running code.
        """
        del datamodule, ckpt_path, weights_only
        precision = self.precision_plugin
        module = precision.convert_module(model.to(self.strategy.root_device).eval())
        assert isinstance(module, StreamModule)
        with precision.forward_context():
            return generate(module, generation)


class SaveConfig(SaveConfigCallback):
    """Keep the configuration beside the logs and, as text, in every checkpoint."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet: a run that is refused for its data or its checkpoint leaves no file."""

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

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store it as a plain string: no class is pickled, and nothing reads it back by itself."""
        del trainer, pl_module
        checkpoint["config"] = self.parser.dump(
            self.config, skip_none=False, skip_link_targets=False
        )


class CLI(LightningCLI):
    """Parse, build, run. What is asked for on the command line is what runs."""

    def __init__(self, args: Sequence[str]) -> None:
        self.exit_code = 0
        super().__init__(
            StreamModule,
            trainer_class=StreamTrainer,
            parser_class=Parser,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            load_from_checkpoint_support=False,
            args=list(args),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the verbs, and the arguments of the Trainer's methods that are not options."""
        return {
            **LightningCLI.subcommands(),
            "generate": {"model", "generation", "datamodule"},
        }

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Name the program as it is called."""
        kwargs.setdefault("prog", "lightning_adastate")
        return super().init_parser(**kwargs)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what was given, and nothing from elsewhere."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would replace the model's arguments by those of the checkpoint."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Every verb accepts every configuration, so all of them know the group `generation`."""
        parser.add_class_arguments(Generation, "generation", instantiate=False)

    def before_instantiate_classes(self) -> None:
        """Check what is asked for before anything is built; for `generate` build only what streams."""
        precision = self.config[self.subcommand].trainer.precision
        if precision in HALF:
            # Built wide and cast afterwards, 14B would need 57 GB of memory on the way.
            parser = self._parser(self.subcommand)
            parser.add_instantiator(partial(_build, HALF[precision]), Backbone)
        if self.subcommand != "generate":
            asked = self.config[self.subcommand]
            asked.weights_only = asked.weights_only is not False  # Lightning's default runs code
            check_checkpoint(asked.ckpt_path, weights_only=asked.weights_only)
            return
        config = self.config["generate"]
        changes = [Change(**change) for change in config.generation.timeline or []]
        self.generation = Generation(**{**config.generation, "timeline": changes})
        weights = self.generation.weights or config.ckpt_path
        config.model = streaming_part(config.model, weights)
        config.data = None
        config.trainer.callbacks = None
        config.trainer.logger = False

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Make every fit resumable: bit for bit, and after a signal in the middle of an epoch."""
        if self.subcommand == "fit":
            given = config.get("callbacks") or []
            present = [*(given if isinstance(given, list) else [given]), *callbacks]
            for kind in (ExactResume, GracefulStop):
                if not any(isinstance(callback, kind) for callback in present):
                    callbacks = [*callbacks, kind()]
        trainer = super()._instantiate_trainer(config, callbacks)
        if isinstance(trainer.strategy, DDPStrategy):
            # Generator and critic have a backward pass each; plain DDP waits for both in either.
            trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        return trainer

    def generate(self, model: StreamModule, **options: Any) -> None:
        """Stream."""
        assert isinstance(self.trainer, StreamTrainer)
        self.exit_code = self.trainer.generate(model, self.generation, **options)


def _build(dtype: torch.dtype, kind: type[Backbone], *args: object, **options: object) -> Backbone:
    """Build a backbone whose weights have that format from the start."""
    return built_in(dtype, partial(kind, *args, **options))


def run(args: Sequence[str]) -> int:
    """Run one verb and return its exit code."""
    import_families()
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    try:
        return CLI(args).exit_code
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
