"""What every stage shares: the components of a stream, wired into a LightningModule."""

# Shapes: B batch, F frames, C channels, H W height / width (of pixels in video_*, of latents elsewhere).

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from typing_extensions import Self

from lightning_adastate.anchors import Anchor
from lightning_adastate.backbones import Backbone
from lightning_adastate.caches import Cache
from lightning_adastate.callbacks.exact_resume import ExactResume
from lightning_adastate.callbacks.graceful_stop import GracefulStop
from lightning_adastate.callbacks.metrics_resume import MetricsResume
from lightning_adastate.codecs import Codec
from lightning_adastate.noise import NoiseSource
from lightning_adastate.schedules import Schedule
from lightning_adastate.streaming.pipeline import PixelStreaming
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.text import TextEncoder
from lightning_adastate.training.checkpoint_io import write_whole_checkpoints
from lightning_adastate.training.checkpoint_weights import (
    FROZEN,
    check_weights,
    waiting_weights,
)
from lightning_adastate.training.configuration import (
    CONFIG_KEY,
    STAGE_KEY,
    build_module,
    check_stage,
    config_text,
    read_checkpoint,
)
from lightning_adastate.training.prediction import predict
from lightning_adastate.training.sharding import data_mesh, shard_networks
from lightning_adastate.training.trainers import allow_unused_parameters, trainer_of
from lightning_adastate.types import PromptBatch, VideoBatch
from lightning_adastate.weights.loading import load_anchor, load_into


class StreamModule(LightningModule, PixelStreaming):
    """Compose backbone, anchor, cache and schedule with a codec and a text encoder.

    Args:
        backbone: Predicts velocity.
        anchor: What stands in front of the window.
        cache: Which frames stay, and all temporal indices.
        schedule: Chunk size and passes.
        codec: Latents to pixels and back; frozen.
        text_encoder: Prompts to embeddings; frozen.
        noise: Source of the stream's noise; ``None`` is ``CounterNoise``.
        frame_size: Height and width of the video in pixels.
        weights: File to initialise the backbone from: a path, or a name shipped with the package.
        ema_decay: Keep an average of the generator with this decay and generate from it; ``None``
            keeps none.
        ema_start: Generator steps before the average begins: until then it is a copy of the generator, so
            that nothing of the first weights is left in it (the public trainer's ``ema_start_step`` counts
            critic steps: its 200 are 40 of these).

    Raises:
        ValueError: If ``ema_decay`` is outside [0, 1), ``ema_start`` is negative, or the weights do not fit.
    """

    strict_loading = False

    recipe_text: str | None = None
    """The whole configuration this module was built from, as YAML; goes into its checkpoints."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        anchor: Anchor,
        cache: Cache,
        schedule: Schedule,
        codec: Codec,
        text_encoder: TextEncoder,
        noise: NoiseSource | None = None,
        frame_size: tuple[int, int] = (480, 832),
        weights: str | None = None,
        ema_decay: float | None = None,
        ema_start: int = 0,
    ) -> None:
        super().__init__()
        if ema_decay is not None and not 0.0 <= ema_decay < 1.0:
            raise ValueError(f"`ema_decay` must be in [0, 1), got {ema_decay}")
        if ema_start < 0:
            raise ValueError(f"`ema_start` must be 0 or more, got {ema_start}")
        if weights is not None:
            load_into(backbone, weights)
            load_anchor(anchor, weights)
        self.generator = Streamer(
            backbone, anchor=anchor, cache=cache, schedule=schedule, noise=noise
        )
        self.ema_decay = ema_decay
        self.ema_start = ema_start
        self.generator_ema = None if ema_decay is None else frozen_copy(self.generator)
        self.codec = codec.eval().requires_grad_(requires_grad=False)
        self.text_encoder = text_encoder.eval().requires_grad_(requires_grad=False)
        self.frame_size = frame_size
        self.waiting_weights: dict[str, Tensor] = {}
        self.register_state_dict_post_hook(_leave_out_frozen)  # type: ignore[no-untyped-call]

    def configure_model(self) -> None:
        """Shard the networks over the processes, where the strategy says so (FSDP2).

        Raises:
            ValueError: If the anchor has parameters, or tensors are to be split too.
        """
        trainer = trainer_of(self)
        if trainer is not None:
            allow_unused_parameters(trainer)
        if self.device_mesh is not None:
            shard_networks(self, data_mesh(self.device_mesh))

    def configure_callbacks(self) -> list[Callback]:
        """Make every fit resumable: bit for bit, after a signal in the middle of an epoch, with one file of metrics.

        Its checkpoints are written whole or not at all. What the trainer has of these already stays as it is.
        """
        trainer = trainer_of(self)
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return []
        write_whole_checkpoints(trainer)
        present = trainer.callbacks  # type: ignore[attr-defined]
        kinds: tuple[type[Callback], ...] = (ExactResume, GracefulStop, MetricsResume)
        return [kind() for kind in kinds if not any(isinstance(each, kind) for each in present)]

    @property
    def streamer(self) -> Streamer:
        """Return what generates: the average where there is one, else the generator itself."""
        return self.generator if self.generator_ema is None else self.generator_ema

    # -- checkpoints ----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Add the stage and the configuration as text: no class is pickled. Frozen modules are no part of a checkpoint."""
        checkpoint[STAGE_KEY] = type(self).__name__
        if self.recipe_text is not None:
            checkpoint[CONFIG_KEY] = self.recipe_text

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Refuse a checkpoint of another stage or model: what does not fit would silently stay as it was built.

        Another anchor is no other model. Streaming does without parts that only training has.

        Raises:
            ValueError: Naming both stages, or the first tensor that does not fit, and the remedy.
        """
        check_stage(checkpoint, type(self))
        if "state_dict" not in checkpoint:  # sharded: the strategy has loaded it, and compared
            return
        weights = checkpoint["state_dict"]
        assert isinstance(weights, dict)
        self.check_weights(weights)

    def check_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Refuse weights of another model.

        Args:
            weights: Tensors by name, as in a checkpoint's ``state_dict``.

        Raises:
            ValueError: Naming the first tensor that does not fit, and the remedy.
        """
        trainer = trainer_of(self)
        check_weights(self, weights, training=trainer is not None and trainer.training)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str | None = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return the module of a checkpoint: built from the configuration in it, with the weights in it.

        Nothing in the file is executed. A module that was built from objects, without a recipe, left no
        configuration: give the objects.

        Args:
            checkpoint_path: The checkpoint.
            map_location: Device to load to; ``None`` is the CPU.
            hparams_file: Not used: the configuration stands in the checkpoint.
            strict: Whether every name must be there; ``None`` is the class's own rule.
            weights_only: Not used: nothing in the file is ever executed.
            **kwargs: Arguments of the constructor that replace the configured ones.

        Raises:
            ValueError: If the checkpoint is missing or unreadable, is of another class, or holds no
                configuration and nothing was given.
        """
        del hparams_file, weights_only
        device = "cpu" if map_location is None else map_location
        checkpoint = read_checkpoint(checkpoint_path, device)
        weights = checkpoint["state_dict"]
        assert isinstance(weights, dict)
        if CONFIG_KEY in checkpoint or not kwargs:
            text = config_text(checkpoint, checkpoint_path)
            module = build_module(cls, text, kwargs, weights)
            module.recipe_text = text
        else:
            module = cls(**kwargs)
        module.load_weights(weights, strict=cls.strict_loading if strict is None else strict)
        return module.to(device)

    def load_weights(self, weights: Mapping[str, Tensor], *, strict: bool = False) -> None:
        """Load the weights of a checkpoint; those of networks that ``setup`` builds wait for them.

        Args:
            weights: Tensors by name, as in a checkpoint's ``state_dict``.
            strict: Whether every name must be there.

        Raises:
            ValueError: If they are of another model.
        """
        self.check_weights(weights)
        self.load_state_dict(weights, strict=strict)
        self.waiting_weights = waiting_weights(self, weights)

    # -- predicting -----------------------------------------------------------------------------

    def predict_step(self, batch: VideoBatch | PromptBatch, batch_idx: int) -> object:
        """Stream the batch's prompts, as many chunks as it says or as long as its clips.

        Returns pixels ``[B, F, 3, H, W]``; with a ``VideoPredictionWriter`` the names of the videos it wrote.
        """
        return predict(self, batch, batch_idx)

    # -- planning -------------------------------------------------------------------------------

    def example_batch(self, prompts: list[str], num_frames: int) -> VideoBatch:
        """Return a batch as ``training_step`` takes it; only its sizes mean something.

        Args:
            prompts: One per row.
            num_frames: Latent frames of a clip.
        """
        shape = (len(prompts), self.codec.pixel_frames(num_frames), 3, *self.frame_size)
        return VideoBatch(video=torch.zeros(shape), prompts=prompts)

    # -- the average ----------------------------------------------------------------------------

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average towards the generator, or make it a copy until ``ema_start``.

        Called after each generator step.
        """
        if self.generator_ema is None or self.ema_decay is None:
            return
        averages, live = list(self.generator_ema.parameters()), list(self.generator.parameters())
        if self.ema_start and self.global_step <= self.ema_start:
            for average, parameter in zip(averages, live, strict=True):
                average.copy_(parameter)
            return
        get_ema_multi_avg_fn(self.ema_decay)(averages, live, 0)


def _leave_out_frozen(
    module: nn.Module, weights: dict[str, Tensor], prefix: str, metadata: object
) -> None:
    """Take the frozen modules out of a state dict."""
    del module, metadata
    for name in [name for name in weights if name.removeprefix(prefix).startswith(FROZEN)]:
        del weights[name]


def frozen_copy(streamer: Streamer) -> Streamer:
    """Return a copy without gradients."""
    return copy.deepcopy(streamer).requires_grad_(requires_grad=False).eval()
