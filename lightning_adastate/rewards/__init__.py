"""Rewards: how good a whole clip is, one number each."""

from lightning_adastate.rewards.base import FunctionReward, Reward
from lightning_adastate.rewards.pan import PanReward

__all__ = ["FunctionReward", "PanReward", "Reward"]
