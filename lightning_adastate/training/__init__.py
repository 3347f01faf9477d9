"""Training stages: one LightningModule each."""

from lightning_adastate.training.base import StreamModule
from lightning_adastate.training.causal_flow_matching import CausalFlowMatching
from lightning_adastate.training.consistency import ConsistencyDistillation
from lightning_adastate.training.flow_matching import FlowMatching
from lightning_adastate.training.ode_regression import ODERegression
from lightning_adastate.training.optimization import WarmupDecay
from lightning_adastate.training.recurrent_flow_matching import RecurrentFlowMatching
from lightning_adastate.training.self_forcing import SelfForcing

__all__ = [
    "CausalFlowMatching",
    "ConsistencyDistillation",
    "FlowMatching",
    "ODERegression",
    "RecurrentFlowMatching",
    "SelfForcing",
    "StreamModule",
    "WarmupDecay",
]
