"""Random states in the checkpoint, so that a resumed run repeats the uninterrupted one bit for bit."""

from __future__ import annotations

import random
from typing import TypedDict

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_adastate.callbacks.lightning_internals import count_batches, mend_epoch_counters


class RandomState(TypedDict):
    """Every global random state, in plain containers and tensors (loads with ``weights_only``)."""

    python: tuple[int, tuple[int, ...], float | None]
    numpy: tuple[str, Tensor, int, int, float]
    torch: Tensor
    cuda: list[Tensor]


class ExactResume(Callback):
    """Save and restore the random states of Python, NumPy, PyTorch and CUDA, each rank's own.

    Our modules draw nothing from them in training; this is for everything else. With a loader that keeps
    its position and draws from its own generator (as ours do), a resumed run is the uninterrupted one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: RandomState | None = None
        self._stepped: int | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Collect all ranks' states."""
        del pl_module
        own = random_state()
        checkpoint["random_states"] = [
            trainer.strategy.broadcast(own, src=rank) for rank in range(trainer.world_size)
        ]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Keep this rank's state until training starts; put right what Lightning counts wrongly at an epoch's end."""
        del pl_module
        loops = checkpoint.get("loops")
        if trainer.training and isinstance(loops, dict) and "fit_loop" in loops:
            self._stepped = mend_epoch_counters(loops["fit_loop"])
        states = checkpoint.get("random_states")
        if not isinstance(states, list) or len(states) != trainer.world_size:
            rank_zero_warn(
                f"the checkpoint has no random states for {trainer.world_size} processes: "
                "this run will not repeat the uninterrupted one bit for bit"
            )
            return
        self._pending = states[trainer.global_rank]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore, after the data is set up and before the first batch is fetched."""
        del trainer, pl_module
        if self._pending is not None:
            restore_random_state(self._pending)
            self._pending = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Put right how many batches have stepped, before the first one."""
        del pl_module, batch, batch_idx
        if self._stepped is not None:
            count_batches(trainer, self._stepped)
            self._stepped = None


def random_state() -> RandomState:
    """Return all global random states of this process."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": (version, words, gauss),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: RandomState) -> None:
    """Make ``state`` the global random state of this process."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
