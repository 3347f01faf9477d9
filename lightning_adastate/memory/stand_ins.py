"""Components whose weights are files, built without them, for predictions that must not read any."""

from __future__ import annotations

from typing import Literal

import torch
from jsonargparse import Namespace
from torch import nn

from lightning_adastate.codecs import Codec, WanCodec
from lightning_adastate.codecs.wan_fast import use_channels_last

UMT5_LAYER = 4 * 4096 * 4096 + 3 * 4096 * 10240 + 2 * 4096 + 32 * 64
UMT5_XXL = 256_384 * 4096 + 24 * UMT5_LAYER + 4096
"""Parameters of UMT5-XXL's encoder: embedding, 24 layers (attention, gated feed-forward, norms, places), norm."""


class UnreadWanCodec(WanCodec):
    """Run Wan2.1's VAE as ``WanCodec`` does, with weights that have no memory.

    Args:
        path: As in ``WanCodec``.
        frames_per_pass: As in ``WanCodec``.
        dtype: Of the weights and of the work.

    Raises:
        ImportError: If diffusers is not installed.
    """

    def __init__(
        self,
        *,
        path: Literal["plain", "fast"] = "fast",
        frames_per_pass: int = 3,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        Codec.__init__(self)
        try:
            from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
        except ImportError as error:
            raise ImportError(
                "WanCodec needs diffusers: pip install 'lightning-adastate[wan]'"
            ) from error
        self.path, self.frames_per_pass, self.compile_passes = path, frames_per_pass, "never"
        with torch.device("meta"):
            self.vae = AutoencoderKLWan()
            nn.Module.to(self.vae, getattr(torch, dtype))
            if path == "fast":
                use_channels_last(self.vae)
            config = self.vae.config
            self.latent_channels = config["z_dim"]
            self.spatial_stride = config["scale_factor_spatial"]
            self.temporal_stride = config["scale_factor_temporal"]
            for name in ("mean", "std"):
                values = torch.empty(1, 1, self.latent_channels, 1, 1)
                self.register_buffer(f"latents_{name}", values, persistent=False)


def without_files(init_args: Namespace) -> None:
    """Replace the codecs of a configuration that read files; sizes stay. A preview counts as its codec."""
    codec = init_args.get("codec")
    while codec is not None and codec.class_path.endswith(".PreviewCodec"):
        codec = codec.init_args.codec
    if codec is None:
        return
    init_args.codec = codec
    if codec.class_path.endswith(".WanCodec"):
        kept = {
            name: value
            for name, value in codec.init_args.items()
            if name in ("path", "frames_per_pass", "dtype")
        }
        path = f"{UnreadWanCodec.__module__}.{UnreadWanCodec.__name__}"
        init_args.codec = Namespace(class_path=path, init_args=Namespace(kept))
