"""What `plan` predicts of training and streaming, beside what tensors hold in the same run.

    python benchmarks/memory.py                       # two minutes on one core
    python benchmarks/memory.py --precisions 32-true bf16-mixed --json out.json

A row is three optimiser steps of SelfForcing (12 latent frames, batch 2, a 64-wide generator of 4 layers, a teacher of
6), or eight chunks of its stream. Measured is the most that tensors made in the run hold at a time, weights
included, counted at every operation. CPU alone: no allocator and no CUDA context are in either column.
"""

import argparse
import itertools
import json
import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from lightning_adastate.anchors import AdaptiveAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.losses import CriticLoss, DMDLoss
from lightning_adastate.memory.live import LiveBytes, tensor_bytes
from lightning_adastate.memory.rehearsal import (
    Sizes,
    extrapolated,
    rehearse_fit,
    rehearse_stream,
    trainer_with,
)
from lightning_adastate.memory.watch import Record, cuda_steps
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.text import VocabularyEncoder
from lightning_adastate.training import SelfForcing
from lightning_adastate.training.base import StreamModule

FRAME_SIZE, FRAMES, ROWS, STEPS = (32, 48), 12, 2, 3


def network(layers: int, recompute: bool) -> WanTransformer:
    return WanTransformer(
        64,
        ffn_dim=256,
        num_heads=4,
        num_layers=layers,
        in_channels=12,
        freq_dim=64,
        text_dim=32,
        text_tokens=8,
        checkpoint_activations=recompute,
    )


def parts(**options: object) -> dict[str, object]:
    return {
        "anchor": AdaptiveAnchor(1),
        "cache": RelativisticCache(window_frames=6),
        "schedule": FewStepSchedule(3, steps=(1000, 500), shift=1.0),
        "codec": PixelShuffleCodec(2),
        "text_encoder": VocabularyEncoder(32, max_tokens=8),
        "frame_size": FRAME_SIZE,
        **options,
    }


def self_forcing(backward: str, recompute: bool, **options: object) -> SelfForcing:
    torch.manual_seed(0)
    given = {
        "loss": DMDLoss(guidance=3.0, shift=1.0),
        "critic_loss": CriticLoss(shift=1.0),
        "optimizer": torch.optim.AdamW,
        "critic_optimizer": torch.optim.AdamW,
        "teacher": lambda: network(6, recompute),
        "critic": lambda: network(4, recompute),
        "negative_prompt": "ugly",
        "num_frames": FRAMES,
        "exit_step": "last",
        "generator_interval": 1,
        "ema_decay": 0.9,
        "backward": backward,
    }
    return SelfForcing(network(4, recompute), **parts(**{**given, **options}))


class Prompts(LightningDataModule):
    """The same prompts and grey clips in every batch."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        height, width = FRAME_SIZE
        batch = {
            "prompts": ["a calm sea", "a storm"],
            "video": torch.zeros(1).expand(ROWS, FRAMES, 3, height, width),
        }
        return DataLoader([batch] * self.batches, batch_size=None)


def measured_fit(
    module: StreamModule, precision: str, batch: object = None, steps: int = STEPS
) -> int:
    """The most that tensors hold in some optimiser steps, weights included."""
    outside = tensor_bytes([*module.parameters(), *module.buffers()])
    batches = steps * getattr(module, "accumulate", 1)
    data = Prompts(batches) if batch is None else DataLoader([batch] * batches, batch_size=None)
    trainer = trainer_with(precision, max_epochs=1)
    with LiveBytes() as live, cuda_steps():
        trainer.fit(module, data)
    # "True" precisions make the weights anew, where they are counted.
    return live.peak + (0 if precision.endswith("16-true") else outside)


def predicted_fit(module: StreamModule, precision: str, *, whole: bool = False) -> Record:
    """What a rehearsal says of training."""
    with torch.device("meta"):
        module.setup("fit")
    return extrapolated(
        module, lambda short: rehearse_fit(short, Sizes(ROWS, FRAMES), precision), whole=whole
    )


def fit(build: Callable[[], StreamModule], precision: str) -> tuple[int, int]:
    """Training's prediction, and what it takes."""
    module = build()
    module.setup("fit")
    return predicted_fit(build(), precision).peak, measured_fit(module, precision)


def generate(build: Callable[[], StreamModule], precision: str) -> tuple[int, int]:
    """Streaming's prediction, and what it takes."""
    predicted = extrapolated(
        build(), lambda short: rehearse_stream(short, Sizes(ROWS), precision)
    ).peak
    module = build()
    plugin = trainer_with(precision).precision_plugin
    plugin.convert_module(module)
    weights = tensor_bytes([*module.parameters(), *module.buffers()])
    with plugin.forward_context(), LiveBytes() as live:
        state = module.open_stream(["a calm sea", "a storm"])
        for made in module.stream(state, 8):
            state = made.state
    return predicted, live.peak + weights


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed", "bf16-true"])
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    table = Table("run", "precision", "predicted MB", "measured MB", "ratio")
    rows = []
    for precision in args.precisions:
        found = {"generate": generate(partial(self_forcing, "whole", False), precision)}
        for backward, recompute in itertools.product(("whole", "chunks"), (False, True)):
            name = f"fit, {backward}{', recomputed' if recompute else ''}"
            found[name] = fit(partial(self_forcing, backward, recompute), precision)
        build = partial(self_forcing, "chunks", True, accumulate=2)
        found["fit, chunks, recomputed, accumulate 2"] = fit(build, precision)
        for name, (guess, most) in found.items():
            row = (name, precision, guess / 1e6, most / 1e6, guess / most)
            rows.append(
                dict(zip(("run", "precision", "predicted", "measured", "ratio"), row, strict=True))
            )
            table.add_row(*row[:2], *(f"{number:.2f}" for number in row[2:]))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
