"""Backbones: noisy live frames and a read-only window in, velocity out."""

from lightning_adastate.backbones.base import Backbone
from lightning_adastate.backbones.lora import LoRABackbone
from lightning_adastate.backbones.wan import WanTransformer

__all__ = ["Backbone", "LoRABackbone", "WanTransformer"]
