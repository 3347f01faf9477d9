"""The contract of a codec: pixels in [0, 1] to latents and back, streamed."""

# Shapes: B batch, F frames, C channels, H W height / width of pixels or latents.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from lightning_adastate.components import Component

CodecState = Mapping[str, Tensor]
"""What streaming must remember between chunks: named tensors, batch first, never written in place."""


class Codec(Component, nn.Module, ABC):
    """Turn video into latents and latents into video.

    Both ways are streamed: the memory goes in and comes out, so a stream can be saved and branched.
    A stream that encodes and one that decodes have a memory each. Pixels are floats in [0, 1]; the
    first latent frame stands for one pixel frame, each later one for ``temporal_stride``. ``compile_passes:
    steady`` compiles passes behind a stream's first, where a codec can.
    """

    latent_channels: int
    spatial_stride: int
    temporal_stride: int
    compile_passes: Literal["auto", "never", "steady"] = "never"

    def encode(self, video_BFCHW: Tensor) -> Tensor:
        """Return the latents ``[B, F', C', H', W']`` of a whole clip ``[B, F, 3, H, W]`` in [0, 1].

        Raises:
            ValueError: If its size is not a whole number of latents.
        """
        return self.encode_next(video_BFCHW, self.empty())[0]

    @abstractmethod
    def encode_next(self, video_BFCHW: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Return the latents of the next frames of a clip, and the memory after them.

        A stream begins with 1 + n strides of frames; every later call brings whole strides.

        Raises:
            ValueError: If its size is not a whole number of latents.
        """

    def empty(self) -> CodecState:
        """Return the memory before the first frame, of either way."""
        return {}

    @abstractmethod
    def decode(self, latents_BFCHW: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Return the next frames ``[B, F, 3, H, W]`` in [0, 1], and the memory after them."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return ``(C, H, W)`` of the latents of one frame of ``height x width`` pixels.

        Raises:
            ValueError: If they are no whole number of latents.
        """
        stride = self.spatial_stride
        if height < 1 or width < 1 or height % stride or width % stride:
            raise ValueError(
                f"height and width must be multiples of {stride} (the codec's stride), "
                f"got {height} x {width}"
            )
        return self.latent_channels, height // stride, width // stride

    def pixel_frames(self, latent_frames: int) -> int:
        """Return how many pixel frames that many latent frames from the start of a stream show."""
        return 1 + self.temporal_stride * (latent_frames - 1) if latent_frames else 0

    def latent_frames(self, pixel_frames: int) -> int:
        """Return how many latent frames that many pixel frames make.

        Raises:
            ValueError: If they are no whole number of latent frames.
        """
        if pixel_frames < 1 or (pixel_frames - 1) % self.temporal_stride:
            raise ValueError(
                f"the number of frames must be 1 + {self.temporal_stride} n, got {pixel_frames}"
            )
        return 1 + (pixel_frames - 1) // self.temporal_stride
