"""Reward-weighted distribution matching: better clips count more (Reward Forcing, arXiv 2512.04678)."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_adastate.callbacks.loss_weighting import LossWeightingCallback
from lightning_adastate.rewards import Reward
from lightning_adastate.streaming import PixelStreaming
from lightning_adastate.types import VideoBatch


class RewardWeighting(LossWeightingCallback):
    """Multiply the frame weights of each clip by ``exp(beta reward)`` (Re-DMD).

    The clip is decoded and scored without a gradient, so the reward only says whose distribution-matching
    gradient counts more. ``beta`` is the released code's factor 2; the paper divides by 1/2.

    Args:
        reward: Scores the decoded clip.
        beta: How strongly the reward counts. 0 changes nothing.
        max_weight: Factors above this are cut to it, so that one clip cannot be all of a batch. Published
            code has no such limit; ``.inf`` is none.

    Raises:
        ValueError: If ``beta`` is negative or ``max_weight`` not positive; in training, if the rollouts show
            other prompts than the batch's.
    """

    def __init__(self, reward: Reward, *, beta: float = 2.0, max_weight: float = 20.0) -> None:
        super().__init__()
        if beta < 0.0:
            raise ValueError(f"`beta` must be 0 or more, got {beta}")
        if not max_weight > 0.0:
            raise ValueError(f"`max_weight` must be positive, got {max_weight}")
        self.reward = reward.eval().requires_grad_(requires_grad=False)
        self.beta = beta
        self.max_weight = max_weight
        self.prompts: list[str] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module whose clips go on with the prompts of an earlier batch."""
        del trainer
        if stage == "fit" and getattr(pl_module, "is_persistent", False):
            raise ValueError(
                "RewardWeighting scores clips with their batch's prompts, but these rollouts carry a "
                "sequence and its prompts on; use rollouts that begin anew"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the reward to the model's device, where the model is from now on."""
        del trainer
        self.reward.to(pl_module.device)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: VideoBatch,
        batch_idx: int,
    ) -> None:
        """Note the prompts of the batch."""
        del trainer, pl_module, batch_idx
        self.prompts = batch["prompts"]

    @torch.no_grad()
    def frame_weights(
        self, module: LightningModule, weights_BF: Tensor, video_BFCHW: Tensor
    ) -> Tensor:
        """Return the weights times each clip's own factor; outside of training they stay."""
        if not self.prompts or not module.trainer.training:
            return weights_BF
        assert isinstance(module, PixelStreaming)
        pixels, _ = module.codec.decode(video_BFCHW.float(), module.codec.empty())
        score_B: Tensor = self.reward(pixels, self.prompts).to(weights_BF)
        factor_B: Tensor = (self.beta * score_B).exp().clamp(max=self.max_weight)
        module.log("train/reward", score_B.mean())
        module.log("train/reward_weight", factor_B.mean())
        return weights_BF * factor_B[:, None]
