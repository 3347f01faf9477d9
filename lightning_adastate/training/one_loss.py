"""What the stages with one network in training and one loss share."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping

from torch import Tensor
from torch.optim import Optimizer

from lightning_adastate.training.manual import ManualModule
from lightning_adastate.training.pretraining import Draws
from lightning_adastate.training.randomness import fold_seed, generator_of


class OneLoss(ManualModule, ABC):
    """Back-propagate one loss, step, and score the same loss on noise that never changes."""

    def step_on(self, errors: Mapping[str, Tensor]) -> None:
        """Back-propagate the error named ``loss``, log all, and step if the optimiser step is whole."""
        self.manual_backward(errors["loss"] / self.accumulate)
        if self.completes_step:
            self.log("train/grad_norm", self.step_generator())
        self.log_dict({f"train/{n}": value.detach() for n, value in errors.items()}, prog_bar=True)
        self.log_step()
        self.batches_seen += 1

    def draws_of(self, batch: int, phase: str) -> Draws:
        """Return where the random numbers of a batch come from."""
        key = (self.seed, batch, phase)
        return Draws(
            generator_of(*key, self.global_rank), generator_of(*key, "all"), fold_seed(*key)
        )

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser of the generator, anchor parameters included."""
        return self.optimization.build(self.generator.parameters())
