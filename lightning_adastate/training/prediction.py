"""What ``predict`` does with a batch: stream its prompts, into files where a callback writes them."""

# Shapes: B rows, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lightning_adastate.callbacks.video_predictions import Order, VideoPredictionWriter
from lightning_adastate.streaming.pipeline import PixelStreaming
from lightning_adastate.training.trainers import trainer_of
from lightning_adastate.types import PromptBatch, VideoBatch

if TYPE_CHECKING:
    from lightning_adastate.training.base import StreamModule

MAX_ROWS = 1 << 16
"""Rows of a batch, so that each has a number of its own."""


def predict(module: StreamModule, batch: VideoBatch | PromptBatch, batch_idx: int) -> object:
    """Stream a batch's prompts: as many chunks as it says, or as long as its clips.

    Returns:
        Pixels ``[B, F, 3, H, W]``; with a ``VideoPredictionWriter`` the names of the videos that were made.

    Raises:
        ValueError: If there is more than one writer, a chunk is not finite, or a video is refused.
    """
    trainer = trainer_of(module)
    orders = _orders(batch, batch_idx, trainer)
    if not orders:  # more processes than batches
        return []
    num_chunks = cast("PromptBatch", batch)["num_chunks"] if "num_chunks" in batch else None
    num_frames = None if num_chunks is not None else batch["video"].shape[1]
    writer = None if trainer is None else _writer(trainer)
    if writer is None:
        return torch.cat(list(_pieces(module, orders, num_chunks, num_frames)), dim=1)
    assert trainer is not None
    missing = [orders[row] for row in writer.missing(orders)]
    wanted = bool(missing)
    if module.device_mesh is not None:  # every pass takes all processes
        wanted = trainer.strategy.reduce_boolean_decision(wanted, all=False)
    if not wanted:
        return []
    writer.begin(missing)
    for piece in _pieces(module, missing or orders, num_chunks, num_frames):
        if trainer.received_sigterm:  # Lightning looks for it in training only
            raise SIGTERMException(128 + signal.SIGTERM)
        if missing:
            writer.append(piece)
    return [order.name for order in missing]


def _pieces(
    module: PixelStreaming, orders: list[Order], num_chunks: int | None, num_frames: int | None
) -> Iterator[Tensor]:
    """Yield pixels chunk by chunk, ``[B, F, 3, H, W]``, until there are as many as wanted."""
    state = module.open_stream(
        [order.prompt for order in orders],
        seed=orders[0].seed,
        stream_ids=[order.stream_id for order in orders],
    )
    done = 0
    for made in module.stream(state, num_chunks):
        if not bool(made.chunk.latents_BFCHW.isfinite().all()):  # it is waited for anyway
            raise ValueError(
                f"the latents of chunk {made.chunk.index} of {orders[0].name!r} are not finite; look at the weights, "
                "or set `trainer.precision` to 32-true"
            )
        last = None if num_frames is None else num_frames - done
        yield made.video_BFCHW[:, :last]
        done += made.video_BFCHW.shape[1]
        if num_frames is not None and done >= num_frames:
            return


def _orders(
    batch: VideoBatch | PromptBatch, batch_idx: int, trainer: Trainer | None
) -> list[Order]:
    """Return what is to be made. Rows that bring no name and noise of their own get both from their place."""
    prompts = batch["prompts"]
    if "num_chunks" in batch:
        asked = cast("PromptBatch", batch)
        length = f"{asked['num_chunks']} chunks"
        rows = zip(asked["names"], prompts, asked["stream_ids"], strict=True)
        return [Order(name, prompt, asked["seed"], row, length) for name, prompt, row in rows]
    ranks, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
    number = batch_idx * ranks + rank
    length = f"{batch['video'].shape[1]} frames"
    return [
        Order(f"{number:06d}-{row:02d}.mp4", prompt, 0, number * MAX_ROWS + row, length)
        for row, prompt in zip(itertools.count(), prompts)
    ]


def _writer(trainer: Trainer) -> VideoPredictionWriter | None:
    """Return the callback that writes videos.

    Raises:
        ValueError: If there are several.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    writers = [each for each in callbacks if isinstance(each, VideoPredictionWriter)]
    if len(writers) > 1:
        folders = ", ".join(str(each.folder) for each in writers)
        raise ValueError(
            f"give one VideoPredictionWriter, got {len(writers)} ({folders}); on the command line `prediction` is one"
        )
    return writers[0] if writers else None
