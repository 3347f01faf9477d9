"""Pixel-shuffle codec: every frame's pixels, rearranged. Exact, without weights or memory."""

# Shapes: B batch, F frames, C channels, H W height / width of pixels or latents.

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from lightning_adastate.codecs.base import Codec, CodecState


class PixelShuffleCodec(Codec):
    """Move every ``stride x stride`` block of pixels into channels.

    For small worlds, where a learned codec would only blur what is to be measured.

    Args:
        stride: Side of a block; the latents have 3 stride^2 channels.
        scale: Pixels in [-1, 1] are multiplied by this, to give latents about unit deviation. A power
            of two loses nothing.

    Raises:
        ValueError: If ``stride`` is below 1 or ``scale`` is not positive.
    """

    temporal_stride = 1

    def __init__(self, stride: int = 2, *, scale: float = 2.0) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"`stride` must be 1 or more, got {stride}")
        if not scale > 0.0:
            raise ValueError(f"`scale` must be positive, got {scale}")
        self.spatial_stride = stride
        self.latent_channels = 3 * stride * stride
        self.scale = scale

    def encode_next(self, video_BFCHW: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Return the latents of ``[B, F, 3, H, W]`` in [0, 1]; there is no memory."""
        if video_BFCHW.ndim != 5 or video_BFCHW.shape[2] != 3:
            raise ValueError(
                f"expected video [B, F, 3, H, W], got shape {tuple(video_BFCHW.shape)}"
            )
        self.latent_shape(*video_BFCHW.shape[3:])
        side = self.spatial_stride
        blocks = "b f c (h ph) (w pw) -> b f (c ph pw) h w"
        latents_BFCHW = rearrange(video_BFCHW * 2.0 - 1.0, blocks, ph=side, pw=side)
        return latents_BFCHW * self.scale, state

    def decode(self, latents_BFCHW: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Return the pixels, clamped to [0, 1]; there is no memory."""
        side = self.spatial_stride
        blocks = "b f (c ph pw) h w -> b f c (h ph) (w pw)"
        pixels = rearrange(latents_BFCHW / self.scale, blocks, ph=side, pw=side)
        return ((pixels + 1.0) / 2.0).clamp(0.0, 1.0), state
