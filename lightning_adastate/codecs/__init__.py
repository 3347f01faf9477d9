"""Codecs: latents to pixels and back."""

from lightning_adastate.codecs.base import Codec, CodecState
from lightning_adastate.codecs.pixel_shuffle import PixelShuffleCodec
from lightning_adastate.codecs.preview import PreviewCodec, fit_preview
from lightning_adastate.codecs.tiny import TinyCodec
from lightning_adastate.codecs.wan import WanCodec

__all__ = [
    "Codec",
    "CodecState",
    "PixelShuffleCodec",
    "PreviewCodec",
    "TinyCodec",
    "WanCodec",
    "fit_preview",
]
