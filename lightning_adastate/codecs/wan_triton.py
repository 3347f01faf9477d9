"""Wan's VAE on its fast path, with one Triton kernel between two convolutions; the same maths, other roundings.

Between them stand the first one's bias, an RMS norm, SiLU and the copy behind the history: four readings and writings
of every activation, which are as many as a chunk's pixels times its channels. Here they are one reading and one writing.
"""

# Shapes: B batch, F frames, H W height / width, C channels last.

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from einops import rearrange
from torch import Tensor, nn

from lightning_adastate.codecs import wan_fast
from lightning_adastate.codecs.wan_fast import CHANNELS_LAST, TINY, Memory

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanRMS_norm


class FusedMemory(Memory):
    """Joins with a kernel that adds the bias, norms, activates and writes behind the history."""

    def convolved(self, conv: nn.Conv3d, joined_BFHWC: Tensor) -> tuple[Tensor, Tensor | None]:
        """Leave the bias to what reads the result."""
        return wan_fast.over_time(conv, joined_BFHWC, with_bias=False), conv.bias

    def join_activated(
        self, name: str, norm: WanRMS_norm, x_BFHWC: Tensor, bias_C: Tensor | None = None
    ) -> Tensor:
        """Return history and activated frames in one tensor, each activation read and written once."""
        batch, frames, *rest = x_BFHWC.shape
        joined = x_BFHWC.new_empty(batch, wan_fast.HELD + frames, *rest)
        history = self.old.get(name)
        joined[:, : wan_fast.HELD] = 0.0 if history is None else rearrange(history, CHANNELS_LAST)
        assert isinstance(norm.gamma, Tensor)
        norm_silu_into(joined, x_BFHWC, norm.gamma.flatten(), bias_C)
        self.remember(name, joined)
        return joined


def norm_silu_into(
    joined_BFHWC: Tensor, x_BFHWC: Tensor, gamma_C: Tensor, bias_C: Tensor | None
) -> None:
    """Write SiLU of the RMS norm of ``x + bias`` over channels into the last frames of ``joined``.

    Sums are made in float32 and rounded once, at the end.

    Raises:
        ValueError: If the tensors are where Triton has no device.
    """
    kernels = importlib.import_module("lightning_adastate.codecs.wan_triton_kernel")
    if not (x_BFHWC.is_cuda or kernels.is_interpreted()):
        raise ValueError(
            f"Wan's VAE with `path: triton` needs a CUDA device, got {x_BFHWC.device}; use `path: fast`"
        )
    kernels.launch(joined_BFHWC, x_BFHWC.contiguous(), gamma_C, bias_C, TINY)


def missing() -> str | None:
    """Return why the kernel cannot be built here, or ``None`` if it can."""
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton does not import ({error}); it comes with PyTorch for CUDA"
    return None


def decode_frames(
    vae: AutoencoderKLWan, latents_BCFHW: Tensor, memory: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the pixels of latent frames in [-1, 1], unclamped, and the memory after them."""
    return wan_fast.decode_frames(vae, latents_BCFHW, memory, kind=FusedMemory)


def encode_frames(
    vae: AutoencoderKLWan, video_BCFHW: Tensor, memory: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the posterior means of pixels in [-1, 1], and the memory after them."""
    return wan_fast.encode_frames(vae, video_BCFHW, memory, kind=FusedMemory)
