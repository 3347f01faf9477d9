"""Training runs that torchrun starts, one after another in the same processes; tests compare what they write.

Not a test by itself: ``distributed_run.py FOLDER``, which holds ``runs.json`` and gets a file for each run.
"""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor
from training_toy import ClipData, backbone, self_forcing, trainer

from lightning_adastate.backbones import LoRABackbone
from lightning_adastate.callbacks import ExactResume
from lightning_adastate.training.base import frozen_copy
from lightning_adastate.training.sharding import full_tensor
from lightning_adastate.weights.fingerprint import weights_fingerprint
from lightning_adastate.weights.loading import load_into

DDP = "ddp"


def snapshot(model):
    """Weights that are saved, and both optimisers' means, gathered from all processes."""
    parts = [model.generator, model.generator_ema, model.critic]
    weights = [full_tensor(p).detach().flatten() for m in parts for p in m.parameters()]
    moments = [
        full_tensor(optimizer.state[p]["exp_avg"]).flatten()
        for optimizer in model.optimizers(use_pl_optimizer=False)
        for group in optimizer.param_groups
        for p in group["params"]
        if p in optimizer.state
    ]
    return {"weights": torch.cat(weights), "moments": torch.cat(moments or [torch.zeros(0)])}


class Watch(Callback):
    """Keeps what was there at the start, saves in the middle, and collects the logs."""

    def __init__(self, save, save_at):
        self.save, self.save_at, self.begin, self.norms = save, save_at, None, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.begin is None:
            self.begin = snapshot(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        logs = trainer.callback_metrics
        self.norms += [float(logs[n]) for n in sorted(logs) if n.startswith("train/grad_norm")]
        if pl_module.batches_seen == self.save_at:
            trainer.save_checkpoint(self.save)


def strategy_of(name, processes):
    if name in ("auto", DDP):
        return name
    return ModelParallelStrategy(
        data_parallel_size=processes,
        tensor_parallel_size=1,
        save_distributed_checkpoint=name == "sharded",
    )


def build(*, recompute=False, lora=False, **options):
    """Return the toy's stage, with what JSON cannot say."""
    torch.manual_seed(0)
    if lora:
        options["critic"] = lambda: LoRABackbone(backbone(2), rank=2)
    model = self_forcing(**options)
    if lora:
        model.generator.backbone = LoRABackbone(model.generator.backbone, rank=2)
        model.generator_ema = frozen_copy(model.generator)
        return model
    for part in (model.generator, model.generator_ema):
        part.backbone.checkpoint_activations = recompute
    return model


def fit(folder, processes, name, strategy, options=None, precision="32-true", epochs=1, **files):
    """Train the toy and write what it had at both ends."""
    model = build(**(options or {}))
    save = folder / files["save"] if "save" in files else None
    watch = Watch(save, files.get("save_at"))
    run = trainer(
        folder,
        devices=processes,
        strategy=strategy_of(strategy, processes),
        precision=precision,
        max_epochs=epochs,
        callbacks=[ExactResume(), watch],
    )
    resume = folder / files["resume"] if "resume" in files else None
    run.fit(model, ClipData(8, val_count=2), ckpt_path=resume)
    names = ("generator", "generator_ema", "teacher", "critic")
    networks = {name: getattr(model, name) for name in names}
    found = {
        "begin": watch.begin,
        "end": snapshot(model),
        "norms": watch.norms,
        "batches": model.batches_seen,
        "steps": run.global_step,
        "dtypes": sorted({str(p.dtype) for p in model.parameters()}),
        "spread": [n for n, m in networks.items() if all_spread(m)],
        "filled": filled(model.teacher, folder) if all_spread(model.teacher) else None,
    }
    if run.global_rank == 0:
        torch.save(found, folder / f"{name}.pt")


def all_spread(module):
    return all(isinstance(p, DTensor) for p in module.parameters())


def filled(network, folder):
    """Load weights into a sharded network; tell whether it has them, and their fingerprint."""
    other = backbone(7)
    file = folder / "other.pt"
    torch.save(other.state_dict(), file.with_suffix(f".{torch.distributed.get_rank()}"))
    file.with_suffix(f".{torch.distributed.get_rank()}").replace(file)
    torch.distributed.barrier()
    load_into(network, file)
    pairs = zip(network.parameters(), other.parameters(), strict=True)
    same = [
        torch.equal(full_tensor(ours), theirs) for ours, theirs in pairs
    ]  # all gather, to the end
    return all(same) and weights_fingerprint(network) == weights_fingerprint(other)


def main():
    folder = Path(sys.argv[1])
    plan = json.loads((folder / "runs.json").read_text())
    for run in plan["runs"]:
        fit(folder, plan["processes"], **run)


if __name__ == "__main__":
    main()
