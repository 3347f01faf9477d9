"""Rollouts: how the videos come to be that self-forcing scores."""

from lightning_adastate.rollouts.base import (
    ChunkRecompute,
    Request,
    Rollout,
    Rollouts,
    denoise_count,
    generated_chunks,
)
from lightning_adastate.rollouts.continued import ContinuedRollouts
from lightning_adastate.rollouts.fresh import FreshRollouts
from lightning_adastate.rollouts.joint import JointRollouts
from lightning_adastate.rollouts.long import LongRollouts
from lightning_adastate.rollouts.noised_data import NoisedData

__all__ = [
    "ChunkRecompute",
    "ContinuedRollouts",
    "FreshRollouts",
    "JointRollouts",
    "LongRollouts",
    "NoisedData",
    "Request",
    "Rollout",
    "Rollouts",
    "denoise_count",
    "generated_chunks",
]
