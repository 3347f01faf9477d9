"""What every stage shares: the components of a stream, wired into a LightningModule."""

# Shapes: B batch, F frames, C channels, H W height / width (of pixels in video_*, of latents elsewhere).

from __future__ import annotations

import copy

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_adastate.anchors import Anchor
from lightning_adastate.backbones import Backbone
from lightning_adastate.caches import Cache
from lightning_adastate.codecs import Codec
from lightning_adastate.noise import NoiseSource
from lightning_adastate.schedules import Schedule
from lightning_adastate.streaming.pipeline import PixelStreaming
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.text import TextEncoder
from lightning_adastate.training.sharding import data_mesh, shard_networks
from lightning_adastate.training.trainers import trainer_of
from lightning_adastate.types import VideoBatch
from lightning_adastate.weights.loading import load_anchor, load_into

FROZEN = ("codec.", "text_encoder.", "teacher.", "teacher_placement.")
"""Modules that are not saved: their weights come from where the configuration says."""


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

    Raises:
        ValueError: If ``ema_decay`` is outside [0, 1), or the weights do not fit.
    """

    strict_loading = False

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
    ) -> None:
        super().__init__()
        if ema_decay is not None and not 0.0 <= ema_decay < 1.0:
            raise ValueError(f"`ema_decay` must be in [0, 1), got {ema_decay}")
        if weights is not None:
            load_into(backbone, weights)
            load_anchor(anchor, weights)
        self.generator = Streamer(
            backbone, anchor=anchor, cache=cache, schedule=schedule, noise=noise
        )
        self.ema_decay = ema_decay
        self.generator_ema = None if ema_decay is None else frozen_copy(self.generator)
        self.codec = codec.eval().requires_grad_(requires_grad=False)
        self.text_encoder = text_encoder.eval().requires_grad_(requires_grad=False)
        self.frame_size = frame_size
        self.register_state_dict_post_hook(_leave_out_frozen)  # type: ignore[no-untyped-call]

    def configure_model(self) -> None:
        """Spread the networks over the processes, where the strategy asks for it (FSDP2).

        Raises:
            ValueError: If the anchor has parameters, or tensors are to be split too.
        """
        if self.device_mesh is not None:
            shard_networks(self, data_mesh(self.device_mesh))

    @property
    def streamer(self) -> Streamer:
        """Return what generates: the average where there is one, else the generator itself."""
        return self.generator if self.generator_ema is None else self.generator_ema

    # -- checkpoints ----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Add nothing: frozen modules are no part of ``state_dict``, sharded or not."""

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Refuse a checkpoint of another model: what does not fit would silently stay as it was built.

        Another anchor is no other model. Streaming does without parts that only training has.

        Raises:
            ValueError: Naming the first tensor that does not fit, and the remedy.
        """
        if "state_dict" not in checkpoint:  # sharded: the strategy has loaded it, and compared
            return
        weights = checkpoint["state_dict"]
        assert isinstance(weights, dict)
        own = {name: tensor for name, tensor in self.state_dict().items() if _is_saved(name)}
        theirs = {name: tensor for name, tensor in weights.items() if _is_saved(name)}
        trainer = trainer_of(self)
        training = trainer is not None and trainer.training
        parts = {name for name, _ in self.named_children()}
        extra = [n for n in theirs if training or n.partition(".")[0] in parts]
        problems = {
            "lacks": sorted(own.keys() - theirs.keys()),
            "also has": sorted(set(extra) - own.keys()),
            "has another shape of": sorted(
                n for n in own.keys() & theirs.keys() if own[n].shape != theirs[n].shape
            ),
        }
        found = [f"{what} {names[0]}" for what, names in problems.items() if names]
        if found:
            raise ValueError(
                f"the checkpoint is not of this model: it {' and '.join(found)}; resume with the "
                "configuration it was made with, or take its generator alone with `model.weights`"
            )

    # -- predicting -----------------------------------------------------------------------------

    def predict_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        """Return streams of the batch's prompts, as long as its clips: pixels ``[B, F, 3, H, W]``."""
        prompts, wanted = batch["prompts"], batch["video"].shape[1]
        ids = [batch_idx * len(prompts) + row for row in range(len(prompts))]
        parts: list[Tensor] = []
        for made in self.stream(self.open_stream(prompts, stream_ids=ids)):
            parts.append(made.video_BFCHW)
            if sum(part.shape[1] for part in parts) >= wanted:
                break
        return torch.cat(parts, dim=1)[:, :wanted]

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
        """Move the average towards the generator. Called after each generator step."""
        if self.generator_ema is None or self.ema_decay is None:
            return
        pairs = zip(self.generator_ema.parameters(), self.generator.parameters(), strict=True)
        for average, live in pairs:
            average.lerp_(live.detach(), 1.0 - self.ema_decay)


def _leave_out_frozen(
    module: nn.Module, weights: dict[str, Tensor], prefix: str, metadata: object
) -> None:
    """ChunkRecompute the frozen modules out of a state dict."""
    del module, metadata
    for name in [name for name in weights if name.removeprefix(prefix).startswith(FROZEN)]:
        del weights[name]


def _is_saved(name: str) -> bool:
    """Tell weights that every checkpoint of a model has; an anchor's own go with the anchor."""
    return not name.startswith(FROZEN) and ".anchor." not in name


def frozen_copy(streamer: Streamer) -> Streamer:
    """Return a copy without gradients."""
    return copy.deepcopy(streamer).requires_grad_(requires_grad=False).eval()
