"""A Trainer that can also stream: on its device, at its precision."""

from __future__ import annotations

import copy

from lightning.pytorch import LightningDataModule, Trainer

from lightning_adastate.generation.generate import generate
from lightning_adastate.generation.options import Generation
from lightning_adastate.training import StreamModule


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
            model: What streams.
            generation: What to generate, and where to put it.
            datamodule: Not used.
            ckpt_path: Training checkpoint to take the weights from, if `generation.weights` is not given.
            weights_only: Not used: weights are always loaded without running code.
        """
        del datamodule, weights_only
        if ckpt_path is not None and generation.weights is None:
            generation = copy.copy(generation)
            generation.weights = ckpt_path
        precision = self.precision_plugin
        module = precision.convert_module(model.to(self.strategy.root_device).eval())
        assert isinstance(module, StreamModule)
        with precision.forward_context():
            return generate(module, generation)
