"""Tiny: a small convolutional stand-in for Wan's VAE, with the weights people have (TAEHV, LightTAE), streamed."""

# Shapes: B batch, F frames, C channels, H W height / width of pixels or latents.

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_adastate.codecs import tiny_layers
from lightning_adastate.codecs.base import Codec, CodecState
from lightning_adastate.codecs.latent_scale import LatentScale

# fmt: off
WAN_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
WAN_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
# fmt: on
"""Mean and deviation of each of Wan2.1's latent channels, as its VAE's configuration has them."""


class TinyCodec(Codec):
    """Decode Wan2.1's latents with a few small convolutions per frame: a preview, 25 times cheaper than the VAE.

    Reads ``taew2_1`` of madebyollin/taehv (MIT) and files of the same tensors, with or without the encoder.
    Widths are taken from the file. The memory is the last input frame of every block that looks one frame back.
    The decoder makes four frames of every latent, and drops the three before a stream's first picture.

    Args:
        weights: The file: ``taew2_1.pth``, ``taew2_1.safetensors``, ``lighttaew2_1.safetensors``.
        latents: What the file was trained on: ``normalised`` latents, as diffusion models make them (taew2_1), or
            Wan's ``raw`` ones (lighttaew2_1). The files look the same, so nothing can check it.
        frames_per_pass: Latent frames that are decoded at once; more needs more memory.
        dtype: Of the weights and of the work. Latents and pixels come out as float32.

    Raises:
        ValueError: If the file cannot be read or holds another model, or an option does not fit.
    """

    spatial_stride = 8
    temporal_stride = 4

    def __init__(
        self,
        weights: str,
        *,
        latents: Literal["normalised", "raw"] = "normalised",
        frames_per_pass: int = 3,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    ) -> None:
        super().__init__()
        if frames_per_pass < 1:
            raise ValueError(f"`frames_per_pass` must be 1 or more, got {frames_per_pass}")
        self.frames_per_pass = frames_per_pass
        halves = tiny_layers.load(weights)
        for half in halves.values():
            half.to(dtype=getattr(torch, dtype), memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.decoder = halves["decoder"]
        self.encoder = halves.get("encoder")
        self.latent_channels = int(self._weight(self.decoder).shape[1])
        self.raw = latents == "raw"
        if self.raw and self.latent_channels != len(WAN_MEAN):
            raise ValueError(
                f"`latents: raw` is for Wan2.1's {len(WAN_MEAN)} channels, {weights!r} has "
                f"{self.latent_channels}"
            )
        self.scale = LatentScale(WAN_MEAN, WAN_STD)

    @torch.no_grad()
    def decode(self, latents_BFCHW: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Return the pixels of the next frames: one for a stream's first latent, four for another."""
        if latents_BFCHW.ndim != 5 or latents_BFCHW.shape[2] != self.latent_channels:
            raise ValueError(
                f"expected latents [B, F, {self.latent_channels}, H, W], "
                f"got shape {tuple(latents_BFCHW.shape)}"
            )
        latents = self.scale.restore(latents_BFCHW) if self.raw else latents_BFCHW.float()
        video, memory = self._run(self.decoder, latents, self._own(state), self.frames_per_pass)
        if not state:
            video = video[:, self.temporal_stride - 1 :]
        return video.clamp(0.0, 1.0), memory

    @torch.no_grad()
    def encode_next(self, video_BFCHW: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Return the latents of a whole clip, and the memory after it, which nothing can go on from.

        Raises:
            ValueError: If the file has no encoder that is known to give the stream's latents, the clip is not
                whole, or its size does not fit.
        """
        if self.encoder is None or self.raw:
            why = "has no encoder" if self.encoder is None else "was trained on raw latents"
            raise ValueError(
                f"the tiny codec's file {why}, so it decodes only; encode with WanCodec"
            )
        if state:
            raise ValueError(
                "the tiny encoder makes a latent of a frame and the three behind it, so a clip must come whole; "
                "encode clips in parts with WanCodec"
            )
        if video_BFCHW.ndim != 5 or video_BFCHW.shape[2] != 3:
            raise ValueError(
                f"expected video [B, F, 3, H, W], got shape {tuple(video_BFCHW.shape)}"
            )
        self.latent_shape(*video_BFCHW.shape[3:])
        frames = self.latent_frames(video_BFCHW.shape[1])
        behind = video_BFCHW[:, -1:].expand(-1, self.temporal_stride - 1, -1, -1, -1)
        video = torch.cat([video_BFCHW, behind], dim=1)
        assert video.shape[1] == frames * self.temporal_stride
        sizes = self.frames_per_pass * self.temporal_stride
        return self._run(self.encoder, video, {}, sizes)

    def _run(
        self, half: nn.Sequential, frames_BFCHW: Tensor, memory: CodecState, most: int
    ) -> tuple[Tensor, CodecState]:
        """Run a half over frames, at most so many at once."""
        parts = []
        for group in frames_BFCHW.to(self._weight(half).dtype).split(most, dim=1):
            made, memory = tiny_layers.run(half, group, memory)
            parts.append(made)
        return torch.cat(parts, dim=1).float(), memory

    def _weight(self, half: nn.Sequential) -> Tensor:
        """Return the weight of a half's first convolution."""
        return next(half.parameters())

    def _own(self, state: CodecState) -> CodecState:
        """Return the memory if it is of this decoder.

        Raises:
            ValueError: If it is another codec's.
        """
        names = {
            number
            for number, layer in self.decoder.named_children()
            if isinstance(layer, tiny_layers.Recall)
        }
        if state and state.keys() != names:
            raise ValueError(
                f"the memory given is not of this decoder: it has {len(state)} tensors, "
                f"expected {len(names)}"
            )
        return state
