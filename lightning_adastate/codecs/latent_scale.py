"""Mean and deviation of a VAE's latents: numbers that stay float32 whatever a module is cast to."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LatentScale(nn.Module):
    """Normalise latents channel by channel, and back.

    Half precision would move them by up to 0.3 %. ``module.to(dtype)`` casts every buffer of floats, so the
    buffer holds their bits; it moves between devices like any other, and is not saved.

    Args:
        mean: Of each channel.
        std: Of each channel.
    """

    bits_2C: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        values_2C = torch.tensor([list(mean), list(std)], dtype=torch.float32)
        self.register_buffer("bits_2C", values_2C.view(torch.int32), persistent=False)

    def normalise(self, latents_BFCHW: Tensor) -> Tensor:
        """Return a VAE's latents ``[B, F, C, H, W]`` with mean 0 and deviation 1, float32."""
        mean, std = self._values()
        return (latents_BFCHW.float() - mean) / std

    def restore(self, latents_BFCHW: Tensor) -> Tensor:
        """Return normalised latents as the VAE takes them, float32."""
        mean, std = self._values()
        return latents_BFCHW.float() * std + mean

    def _values(self) -> tuple[Tensor, Tensor]:
        mean, std = self.bits_2C.view(torch.float32)[:, None, None, :, None, None].unbind()
        return mean, std
