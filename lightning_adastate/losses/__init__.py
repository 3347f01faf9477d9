"""Losses: pure maths on latents. They evaluate networks and know none of them."""

from lightning_adastate.losses.base import (
    GeneratorLoss,
    Networks,
    Noised,
    NoiseDraw,
    NoisingLoss,
    Reweight,
    Velocity,
)
from lightning_adastate.losses.critic import CriticLoss
from lightning_adastate.losses.dmd import DMDLoss, dmd_gradient, dmd_loss
from lightning_adastate.losses.flow_matching import FlowMatchingLoss
from lightning_adastate.losses.motion import MotionDMDLoss, motion_weights
from lightning_adastate.losses.sid import SiDLoss, sid_elements
from lightning_adastate.losses.weighting import (
    FrameWeighting,
    HorizonWeighting,
    UniformWeighting,
    horizon_weights,
)

__all__ = [
    "CriticLoss",
    "DMDLoss",
    "FlowMatchingLoss",
    "FrameWeighting",
    "GeneratorLoss",
    "HorizonWeighting",
    "MotionDMDLoss",
    "Networks",
    "NoiseDraw",
    "Noised",
    "NoisingLoss",
    "Reweight",
    "SiDLoss",
    "UniformWeighting",
    "Velocity",
    "dmd_gradient",
    "dmd_loss",
    "horizon_weights",
    "motion_weights",
    "sid_elements",
]
