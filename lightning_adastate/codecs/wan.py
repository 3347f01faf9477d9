"""Wan's video VAE through diffusers, streamed both ways."""

# Shapes: B batch, F frames, C channels, H W height / width of pixels or latents.

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lightning_adastate.codecs import wan_fast, wan_plain, wan_triton
from lightning_adastate.codecs.base import Codec, CodecState
from lightning_adastate.codecs.latent_scale import LatentScale
from lightning_adastate.codecs.wan_native import load_native, native_file
from lightning_adastate.components.compiled import CompiledOrPlain

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

Way = Callable[
    ["AutoencoderKLWan", Tensor, Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]
]


WAYS = {"plain": wan_plain, "fast": wan_fast, "triton": wan_triton}
"""How a pass is made, by its name."""


class WanCodec(Codec):
    """Encode and decode with Wan2.1's VAE: 16 channels, stride 8 in space and 4 in time.

    The memory is the last input frames of every causal convolution, by the convolution's name. Decoding
    in chunks equals decoding at once, to the last bit with ``path="plain"``.

    Args:
        folder: A folder with ``config.json`` and weights as diffusers writes them, or one that has it in
            ``vae``, or a folder with Wan's own ``Wan2.1_VAE.pth``, or that file, or a model's name on the hub.
        path: ``plain`` runs diffusers' modules frame by frame. ``fast`` runs the same weights with several
            frames at once, channels last and less traffic; it differs from ``plain`` by rounding. ``triton`` is
            ``fast`` with bias, norm, SiLU and join in one Triton kernel; it needs a CUDA device, and has not run on one.
        frames_per_pass: Latent frames that ``fast`` decodes or encodes at once; more needs more memory.
        dtype: Of the weights and of the work. Latents and pixels come out as float32.
        compile_passes: ``steady`` compiles passes behind a stream's first with torch.compile; needs ``fast``.
            ``auto`` leaves it to ``generation.speed``.

    Raises:
        ValueError: If the folder is not there, or holds another VAE, or an option does not fit.
        ImportError: If diffusers is not installed.
    """

    neutral_arguments = frozenset({"compile_passes"})

    def __init__(
        self,
        folder: str,
        *,
        path: Literal["plain", "fast", "triton"] = "fast",
        frames_per_pass: int = 3,
        dtype: Literal["float32", "bfloat16"] = "float32",
        compile_passes: Literal["auto", "never", "steady"] = "never",
    ) -> None:
        super().__init__()
        if frames_per_pass < 1:
            raise ValueError(f"`frames_per_pass` must be 1 or more, got {frames_per_pass}")
        if compile_passes == "steady" and path != "fast":
            raise ValueError(
                f"`compile_passes: steady` needs `path: fast`; {path} is not compiled"
            )
        if path == "triton" and (reason := wan_triton.missing()) is not None:
            raise ValueError(f"`path: triton` is not available: {reason}; or use `fast`")
        self.path = path
        self.frames_per_pass = frames_per_pass
        self.compile_passes = compile_passes
        self.vae = load_vae(folder, getattr(torch, dtype))
        if path != "plain":
            wan_fast.use_channels_last(self.vae)
        config = self.vae.config
        self.latent_channels = config["z_dim"]
        self.spatial_stride = config["scale_factor_spatial"]
        self.temporal_stride = config["scale_factor_temporal"]
        self.scale = LatentScale(config["latents_mean"], config["latents_std"])

    @torch.no_grad()
    def encode_next(self, video_BFCHW: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Return normalised posterior means of the next frames, and the memory after them."""
        if video_BFCHW.ndim != 5 or video_BFCHW.shape[2] != 3:
            raise ValueError(
                f"expected video [B, F, 3, H, W], got shape {tuple(video_BFCHW.shape)}"
            )
        self.latent_shape(*video_BFCHW.shape[3:])
        stride, count = self.temporal_stride, video_BFCHW.shape[1]
        if not state:
            self.latent_frames(count)
        elif count < 1 or count % stride:
            raise ValueError(f"a stream goes on by multiples of {stride} frames, got {count}")
        memory = self._own(state, "encoder")
        way = WAYS[self.path].encode_frames
        video_BCFHW = self._work(video_BFCHW * 2.0 - 1.0)
        sizes = [stride * size for size in self._sizes(-(-count // stride))]
        if not state:
            sizes[0] -= stride - 1
        parts = []
        for group in video_BCFHW.split(sizes, dim=2):
            mean, memory = self._run(way, group, memory)
            parts.append(mean)
        return self.scale.normalise(torch.cat(parts, dim=2).transpose(1, 2)), memory

    @torch.no_grad()
    def decode(self, latents_BFCHW: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Return the pixels of the next frames: one for a stream's first latent, four for another."""
        if latents_BFCHW.ndim != 5 or latents_BFCHW.shape[2] != self.latent_channels:
            raise ValueError(
                f"expected latents [B, F, {self.latent_channels}, H, W], "
                f"got shape {tuple(latents_BFCHW.shape)}"
            )
        memory = self._own(state, "decoder")
        way = WAYS[self.path].decode_frames
        latents_BCFHW = self._work(self.scale.restore(latents_BFCHW))
        parts = []
        for group in latents_BCFHW.split(self._sizes(latents_BCFHW.shape[2]), dim=2):
            pixels, memory = self._run(way, group, memory)
            parts.append(pixels)
        video = torch.cat(parts, dim=2).transpose(1, 2).float()
        return ((video + 1.0) / 2.0).clamp(0.0, 1.0), memory

    def _sizes(self, frames: int) -> list[int]:
        """Cut that many latent frames into passes."""
        most = self.frames_per_pass
        return [min(most, frames - start) for start in range(0, frames, most)]

    def _run(
        self, way: Way, x_BCFHW: Tensor, memory: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run one pass, compiled if it is asked for and the stream has begun."""
        if self.compile_passes == "steady" and self.path == "fast" and memory:
            way = compiled(way)
        return way(self.vae, x_BCFHW, memory)

    def _work(self, x_BFCHW: Tensor) -> Tensor:
        """Return it with channels before frames, in the weights' dtype."""
        return x_BFCHW.transpose(1, 2).to(self.vae.dtype)

    def _own(self, state: CodecState, half: Literal["encoder", "decoder"]) -> dict[str, Tensor]:
        """Return the memory if it is of this half.

        Raises:
            ValueError: If it is another codec's, or that of the other direction.
        """
        names = wan_plain.slot_frames(getattr(self.vae, half))
        if state and state.keys() != names.keys():
            raise ValueError(
                f"the memory given is not of this VAE's {half}: it has {len(state)} tensors, "
                f"expected {len(names)}; encoding and decoding have a memory each"
            )
        return dict(state)


@cache
def compiled(way: Way) -> Way:
    """Return the compiled pass of this process, one for all codecs; each shape compiles once."""
    return CompiledOrPlain(way, "the codec's passes")


def load_vae(folder: str, dtype: torch.dtype) -> AutoencoderKLWan:
    """Return the frozen VAE of a folder or of the hub.

    Raises:
        ValueError: If there is none, or it is not Wan2.1's.
        ImportError: If diffusers is not installed.
    """
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "WanCodec needs diffusers: pip install 'lightning-adastate[wan]'"
        ) from error
    native = native_file(folder)
    vae = _from_diffusers(folder, dtype) if native is None else load_native(native, dtype)
    config = vae.config
    if config["is_residual"] or config["patch_size"] is not None or config["attn_scales"]:
        raise ValueError(
            f"{folder!r} holds another VAE (Wan2.2's, or one with attention among its blocks); "
            "WanCodec knows Wan2.1's: 16 channels, stride 8"
        )
    return vae.eval().requires_grad_(requires_grad=False)


def _from_diffusers(folder: str, dtype: torch.dtype) -> AutoencoderKLWan:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    is_bare = (Path(folder) / "config.json").is_file()
    try:
        vae: AutoencoderKLWan = AutoencoderKLWan.from_pretrained(
            folder, subfolder=None if is_bare else "vae", torch_dtype=dtype
        )
    except (OSError, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"cannot load Wan's VAE from {folder!r}: {line}; give a folder with config.json and "
            "weights (or with a folder vae that has them), one with Wan2.1_VAE.pth, or a name on the hub"
        ) from error
    return vae
