"""Codecs: latents to pixels and back."""

from lightning_adastate.codecs.base import Codec, CodecState
from lightning_adastate.codecs.pixel_shuffle import PixelShuffleCodec

__all__ = ["Codec", "CodecState", "PixelShuffleCodec"]
