"""What `plan` predicts of training and streaming, beside what tensors hold in the same run.

    python benchmarks/memory.py                       # two minutes on one core
    python benchmarks/memory.py --precisions 32-true bf16-mixed --json out.json

A row is three optimiser steps of SelfForcing (12 latent frames, batch 2, a 64-wide generator of 4 layers, a teacher of
6), or eight chunks of its stream. Measured is the most that tensors made in the run hold at a time, weights
included, counted at every operation. CPU alone: no allocator and no CUDA context are in either column.
"""

import argparse
import copy
import itertools
import json
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, Trainer
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from lightning_adastate.anchors import AdaptiveAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.losses import CriticLoss, DMDLoss
from lightning_adastate.memory.parts import Phase, Sizes
from lightning_adastate.memory.passes import LiveBytes, Precision, tensor_bytes
from lightning_adastate.memory.phases import fit_phase, generate_phase
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


def sizes_of(module: StreamModule) -> Sizes:
    return Sizes(ROWS, ROWS, module.codec.latent_shape(*FRAME_SIZE), FRAMES)


def measured_fit(module: StreamModule, precision: str) -> int:
    """The most that tensors hold in some optimiser steps, weights included."""
    outside = tensor_bytes([*module.parameters(), *module.buffers()])
    batches = STEPS * getattr(module, "accumulate", 1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            precision=precision,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        with LiveBytes() as live:
            trainer.fit(module, datamodule=Prompts(batches))
    # "True" precisions make the weights anew, where they are counted.
    return live.peak + (outside if Precision(precision).is_wide else 0)


def fit(module: StreamModule, precision: str) -> tuple[Phase, int]:
    """Training's prediction, and what it takes."""
    module.setup("fit")
    predicted = fit_phase(copy.deepcopy(module), sizes_of(module), Precision(precision))
    return predicted, measured_fit(module, precision)


def generate(module: StreamModule, precision: str) -> tuple[Phase, int]:
    """Streaming's prediction, and what it takes."""
    kind = Precision(precision)
    predicted = generate_phase(copy.deepcopy(module), sizes_of(module), kind)
    if not kind.is_wide:
        module.to(kind.weights)
    weights = tensor_bytes(
        [*module.streamer.parameters(), *module.streamer.buffers(), *module.codec.parameters()]
    )
    with kind.context(), LiveBytes() as live:
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
        found = {"generate": generate(self_forcing("whole", False), precision)}
        for backward, recompute in itertools.product(("whole", "chunks"), (False, True)):
            name = f"fit, {backward}{', recomputed' if recompute else ''}"
            found[name] = fit(self_forcing(backward, recompute), precision)
        module = self_forcing("chunks", True, accumulate=2)
        found["fit, chunks, recomputed, accumulate 2"] = fit(module, precision)
        for name, (phase, most) in found.items():
            row = (name, precision, phase.total / 1e6, most / 1e6, phase.total / most)
            rows.append(
                dict(zip(("run", "precision", "predicted", "measured", "ratio"), row, strict=True))
            )
            table.add_row(*row[:2], *(f"{number:.2f}" for number in row[2:]))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
