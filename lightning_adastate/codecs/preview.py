"""Preview: pixels as a linear function of the latents around them, fitted to another codec's pictures."""

# Shapes: B batch, F frames, C channels, H W height / width, P pixels of a patch, N samples, X inputs.

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from lightning_adastate.codecs.base import Codec, CodecState

STREAM_STARTS, GOES_ON = 0, 1
RIDGE = 1e-6
"""Added to the normal equations, as a share of their mean diagonal, so that latents that never vary do no harm."""


class PreviewCodec(Codec):
    """Show a blurred picture at once: one matrix product in place of a decoder.

    A latent's pixels are a linear function of it, its neighbours and the latents before it. A learned
    decoder invents texture and follows motion; no linear map can. It is for looking on while the exact
    decoder is too slow, never for results. Encoding is the other codec's.

    Args:
        codec: What it stands in for; it encodes, and `fit_preview` learns from its decoder.
        weights: File of weights that were fitted before (safetensors); ``None`` waits for `fit_preview`.
        reach: Neighbours that are looked at, on each side.

    Raises:
        ValueError: If ``reach`` is negative, or the weights do not fit.
    """

    def __init__(self, codec: Codec, *, weights: str | None = None, reach: int = 1) -> None:
        super().__init__()
        if reach < 0:
            raise ValueError(f"`reach` must be 0 or more, got {reach}")
        self.codec = codec
        self.reach = reach
        self.latent_channels = codec.latent_channels
        self.spatial_stride = codec.spatial_stride
        self.temporal_stride = codec.temporal_stride
        inputs = 2 * codec.latent_channels * (2 * reach + 1) ** 2 + 1
        patch = 3 * codec.spatial_stride**2
        self.first_XP = nn.Parameter(torch.zeros(inputs, patch), requires_grad=False)
        self.later_XP = nn.Parameter(
            torch.zeros(inputs, codec.temporal_stride * patch), requires_grad=False
        )
        if weights is not None:
            self._load(weights)

    @property
    def is_fitted(self) -> bool:
        """Whether there are weights."""
        return bool(self.first_XP.any()) and bool(self.later_XP.any())

    def weights(self) -> dict[str, Tensor]:
        """Return what `checkpoints.save_tensors` should write."""
        return {"first": self.first_XP.detach(), "later": self.later_XP.detach()}

    def encode_next(self, video_BFCHW: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Return the other codec's latents."""
        return self.codec.encode_next(video_BFCHW, state)

    @torch.no_grad()
    def decode(self, latents_BFCHW: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """Return a preview of the next frames; the memory is the newest latent."""
        if not self.is_fitted:
            raise ValueError("the preview is not fitted: give `weights`, or call fit_preview")
        maps = (self.first_XP, self.later_XP)
        parts = [
            self._video(inputs.float() @ maps[kind].float(), latents_BFCHW)
            for kind, inputs in self.inputs(latents_BFCHW, state)
        ]
        return torch.cat(parts, dim=1).clamp(0.0, 1.0), {"newest": latents_BFCHW[:, -1:].clone()}

    def inputs(self, latents_BFCHW: Tensor, state: CodecState) -> list[tuple[int, Tensor]]:
        """Return what the maps are given, ``[B, F, H, W, X]``, of a stream's first frame and of others."""
        newest = state.get("newest")
        before = latents_BFCHW[:, :1] if newest is None else newest.to(latents_BFCHW)
        earlier = torch.cat([before, latents_BFCHW[:, :-1]], dim=1)
        joined = torch.cat([latents_BFCHW, earlier], dim=2).flatten(0, 1)
        side = 2 * self.reach + 1
        padded = functional.pad(joined, [self.reach] * 4, mode="replicate")
        batch, _, _, height, _ = latents_BFCHW.shape
        around = functional.unfold(padded, side)
        around = rearrange(around, "(b f) x (h w) -> b f h w x", b=batch, h=height)
        around = functional.pad(around, (0, 1), value=1.0)
        if newest is not None:
            return [(GOES_ON, around)]
        parts = [(STREAM_STARTS, around[:, :1]), (GOES_ON, around[:, 1:])]
        return [(kind, part) for kind, part in parts if part.shape[1]]

    def targets(self, kind: int, video_BFCHW: Tensor) -> Tensor:
        """Return pixels as the maps give them, ``[B, F, H, W, P]``; the inverse of what `decode` does."""
        times = 1 if kind == STREAM_STARTS else self.temporal_stride
        side = self.spatial_stride
        patches = "b (f t) c (h ph) (w pw) -> b f h w (t c ph pw)"
        return rearrange(video_BFCHW, patches, t=times, ph=side, pw=side)

    def _video(self, pixels_BFHWP: Tensor, latents_BFCHW: Tensor) -> Tensor:
        """Return the video ``[B, F, 3, H, W]`` of a map's results."""
        side = self.spatial_stride
        patches = "b f h w (t c ph pw) -> b (f t) c (h ph) (w pw)"
        return rearrange(pixels_BFHWP, patches, c=3, ph=side, pw=side)

    def _load(self, weights: str) -> None:
        """Fill the maps from a file.

        Raises:
            ValueError: If it is missing, damaged, or of another codec or reach.
        """
        try:
            tensors = load_file(Path(weights).expanduser())
        except (OSError, SafetensorError) as error:
            raise ValueError(f"cannot read preview weights from {weights!r}: {error}") from error
        for name, own in self.weights().items():
            if name not in tensors or tensors[name].shape != own.shape:
                raise ValueError(
                    f"preview weights {weights!r} were fitted for another codec or `reach`: "
                    f"{name!r} should be {tuple(own.shape)}"
                )
            own.copy_(tensors[name])


@torch.no_grad()
def fit_preview(preview: PreviewCodec, clips: Iterable[Tensor]) -> None:
    """Fit the maps to the pictures that the other codec's decoder makes of these latents.

    Least squares in float64; only the normal equations are kept, so there may be any number of clips.

    Args:
        preview: What is fitted, in place.
        clips: Latents of whole clips from their first frame, ``[B, F, C, H, W]`` with F of 2 or more.

    Raises:
        ValueError: If no clip has two frames.
    """
    maps = (preview.first_XP, preview.later_XP)
    squares = [torch.zeros(len(m), len(m), dtype=torch.float64, device=m.device) for m in maps]
    products = [torch.zeros_like(m, dtype=torch.float64) for m in maps]
    for latents_BFCHW in clips:
        video, _ = preview.codec.decode(latents_BFCHW, preview.codec.empty())
        pixels = {STREAM_STARTS: video[:, :1], GOES_ON: video[:, 1:]}
        for kind, around in preview.inputs(latents_BFCHW, preview.empty()):
            inputs_NX = around.flatten(0, -2).double()
            targets_NP = preview.targets(kind, pixels[kind]).flatten(0, -2).double()
            squares[kind] += inputs_NX.T @ inputs_NX
            products[kind] += inputs_NX.T @ targets_NP
    if not squares[GOES_ON].any():
        raise ValueError("fit_preview needs a clip of two latent frames or more")
    for weights, square, product in zip(maps, squares, products, strict=True):
        ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square)).to(square)
        weights.copy_(torch.linalg.solve(square + ridge, product))


def psnr(video_BFCHW: Tensor, reference_BFCHW: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of pixels in [0, 1]."""
    error = (video_BFCHW.double() - reference_BFCHW.double()).square().mean()
    return float(-10.0 * torch.log10(error.clamp_min(1e-12)))
