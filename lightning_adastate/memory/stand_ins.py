"""Components whose weights are files, built without them, for predictions that must not read any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jsonargparse import Namespace
from torch import Tensor, nn

from lightning_adastate.codecs import Codec, WanCodec
from lightning_adastate.codecs.latent_scale import LatentScale
from lightning_adastate.codecs.wan_fast import use_channels_last
from lightning_adastate.text import TextEncoder

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
            self.scale = LatentScale(config["latents_mean"], config["latents_std"])


class UnreadEncoder(TextEncoder):
    """Give embeddings of the right size, and take the memory that UMT5-XXL takes.

    Args:
        text_dim: As in ``UMT5Encoder``.
        max_tokens: As in ``UMT5Encoder``.
        dtype: Of weights and embeddings.
        stays: Whether the weights stay after a call. They are bytes, which no precision casts.
    """

    def __init__(
        self,
        *,
        text_dim: int = 4096,
        max_tokens: int = 512,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        stays: bool = False,
    ) -> None:
        super().__init__()
        self.text_dim, self.max_tokens = text_dim, max_tokens
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.size = UMT5_XXL * self.dtype.itemsize
        if stays:
            weights = torch.empty(self.size, dtype=torch.uint8, device="meta")
            self.register_buffer("weights", weights, persistent=False)
        self.stays = stays

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Return ``[B, S, D]``; the weights are there until it returns."""
        weights = None if self.stays else torch.empty(self.size, dtype=torch.uint8)
        text_BSD = torch.zeros(len(prompts), self.max_tokens, self.text_dim, dtype=self.dtype)
        del weights
        return text_BSD


def without_files(init_args: Namespace) -> None:
    """Replace the parts of a configuration that read files; sizes stay. A preview counts as its codec."""
    codec, encoder = init_args.get("codec"), init_args.get("text_encoder")
    while codec is not None and codec.class_path.endswith(".PreviewCodec"):
        codec = codec.init_args.codec
    while encoder is not None and encoder.class_path.endswith(".CachedEncoder"):
        encoder = encoder.init_args.encoder
    if codec is not None:
        init_args.codec = codec
    if codec is not None and codec.class_path.endswith(".WanCodec"):
        init_args.codec = _instead(UnreadWanCodec, codec, ("path", "frames_per_pass", "dtype"))
    if encoder is not None:
        init_args.text_encoder = encoder
    if encoder is not None and encoder.class_path.endswith(".UMT5Encoder"):
        init_args.text_encoder = _instead(
            UnreadEncoder, encoder, ("text_dim", "max_tokens", "dtype")
        )
        init_args.text_encoder.init_args.stays = encoder.init_args.get("after") == "keep"


def _instead(kind: type[nn.Module], given: Namespace, names: Sequence[str]) -> Namespace:
    kept = {name: value for name, value in given.init_args.items() if name in names}
    path = f"{kind.__module__}.{kind.__name__}"
    return Namespace(class_path=path, init_args=Namespace(kept))
