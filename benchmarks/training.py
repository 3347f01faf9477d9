"""A generator step of self-forcing: back-propagated as a whole and chunk by chunk, with and without recomputed
activations.

    python benchmarks/training.py                       # about a minute on one core
    python benchmarks/training.py --frames 9 21 42 --json out.json

Rows are rollout lengths in latent frames (chunks of 3, two denoise passes, batch 2, a 64-wide network of 4
layers as teacher, critic and generator). Columns: what autograd keeps at its peak, and seconds per generator
step (rollout, DMD loss, backward). The variants run in turns; their gradients are compared.
"""

import argparse
import gc
import itertools
import time
from pathlib import Path

import torch
from bound import MatmulRate, counted
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rows import Row, device_name, print_rows, write

from lightning_adastate.anchors import StaticAnchor
from lightning_adastate.backbones import WanTransformer
from lightning_adastate.caches import RelativisticCache
from lightning_adastate.codecs import PixelShuffleCodec
from lightning_adastate.losses import CriticLoss, DMDLoss
from lightning_adastate.schedules import FewStepSchedule
from lightning_adastate.text import VocabularyEncoder
from lightning_adastate.training import SelfForcing

VARIANTS = list(itertools.product(("whole", "chunks"), (False, True)))
REPEATS, BATCH = 2, 2
CPU = torch.device("cpu")


class Resident:
    """Bytes that autograd holds for backward passes, now and at the peak."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(
            lambda t: Held(self, t), lambda h: h.tensor
        )


class Held:
    """One tensor held for a backward pass."""

    def __init__(self, kept: Resident, tensor: torch.Tensor) -> None:
        self.kept, self.tensor = kept, tensor
        kept.now += tensor.nbytes
        kept.peak = max(kept.peak, kept.now)

    def __del__(self) -> None:
        self.kept.now -= self.tensor.nbytes


def backbone(checkpoint: bool, seed: int = 0) -> WanTransformer:
    torch.manual_seed(seed)
    model = WanTransformer(
        64,
        ffn_dim=256,
        num_heads=4,
        num_layers=4,
        in_channels=12,
        freq_dim=64,
        text_dim=32,
        text_tokens=8,
        checkpoint_activations=checkpoint,
    )
    torch.nn.init.normal_(model.head.head.weight, std=0.02)
    return model


def build(frames: int, backward: str, checkpoint: bool) -> SelfForcing:
    module = SelfForcing(
        backbone(checkpoint),
        anchor=StaticAnchor(1),
        cache=RelativisticCache(window_frames=6),
        schedule=FewStepSchedule(3, steps=(1000, 500), shift=1.0),
        codec=PixelShuffleCodec(2),
        text_encoder=VocabularyEncoder(32, max_tokens=8),
        loss=DMDLoss(guidance=0.0, shift=1.0),
        critic_loss=CriticLoss(shift=1.0),
        optimizer=torch.optim.AdamW,
        critic_optimizer=torch.optim.AdamW,
        critic=lambda: backbone(False, seed=1),
        num_frames=frames,
        exit_step="last",
        backward=backward,
        frame_size=(8, 16),
    )
    module.setup("fit")
    module.log = lambda *args, **options: None
    module.log_dict = lambda *args, **options: None
    module.manual_backward = lambda loss: loss.backward()
    module.step_generator = lambda: None
    return module


def step(module: SelfForcing, kept: Resident) -> tuple[float, torch.Tensor]:
    """Return the seconds of a generator step and its gradient."""
    module.zero_grad()
    text = module.encode_text(["drifting west", "drifting slowly east"])
    gc.collect()
    start = time.perf_counter()
    with kept.hooks():
        module.learn_generator(text, None)
    spent = time.perf_counter() - start
    return spent, torch.cat([p.grad.flatten() for p in module.generator.parameters()])


def measure(frames: int) -> tuple[list[Row], dict[str, dict[str, float]]]:
    modules = {variant: build(frames, *variant) for variant in VARIANTS}
    kept = {variant: Resident() for variant in VARIANTS}
    times: dict[tuple[str, bool], list[float]] = {variant: [] for variant in VARIANTS}
    gradients = {}
    rate = MatmulRate(CPU, torch.float32)
    for _ in range(REPEATS):
        rate.sample()
        for variant, module in modules.items():
            spent, gradients[variant] = step(module, kept[variant])
            times[variant].append(spent)
    exact = gradients[VARIANTS[0]]
    # What takes does more than is needed, so all are compared with the work of the one that does not.
    work = counted(lambda: step(modules[VARIANTS[0]], Resident()))
    rows = [
        Row(
            model=f"64 x 4 layers, {frames} frames",
            scope="training step",
            path=f"{backward}{', recomputed' if checkpoint else ''}",
            device=device_name(CPU),
            dtype="float32",
            attention="sdpa",
            cached_frames=3,
            anchor="sink of 1",
            streams=BATCH,
            ms=1e3 * min(times[backward, checkpoint]),
            peak_mb=kept[backward, checkpoint].peak / 2**20,
            bound_ms=rate.bound_ms(work),
        )
        for backward, checkpoint in VARIANTS
    ]
    return rows, {
        f"{backward}{', recomputed' if checkpoint else ''}": {
            "peak_mb": kept[backward, checkpoint].peak / 2**20,
            "seconds": min(times[backward, checkpoint]),
            "gradient_difference": float(
                (gradients[backward, checkpoint] - exact).norm() / exact.norm()
            ),
        }
        for backward, checkpoint in VARIANTS
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[9, 21, 42])
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    found: dict[int, dict[str, dict[str, float]]] = {}
    rows: list[Row] = []
    for frames in track(args.frames, "measuring", transient=True):
        more, found[frames] = measure(frames)
        rows += more
    print_rows(rows)
    table = Table(title=f"generator step, float32, torch {torch.__version__}, CPU")
    for column in ("frames", "backward", "peak MB", "s", "gradient difference"):
        table.add_column(column, justify="left" if column == "backward" else "right")
    for frames, variants in found.items():
        for name, row in variants.items():
            numbers = (f"{row['peak_mb']:.1f}", f"{row['seconds']:.2f}")
            table.add_row(str(frames), name, *numbers, f"{row['gradient_difference']:.0e}")
    Console().print(table)
    write(args.json, rows, found)


if __name__ == "__main__":
    main()
