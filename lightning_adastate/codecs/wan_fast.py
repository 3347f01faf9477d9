"""Wan's VAE with all latent frames of a call in one pass; the same maths as `wan_plain`, other roundings.

What the plain way spends besides its convolutions, and what is done here instead:

- one latent frame per pass, so every kernel is launched for one to four frames: all frames go together.
  Histories make that exact; only the temporal resampling treats the first frame of a stream apart;
- history is joined, then padded with a second copy, then copied again for the next call: activations are
  written once, behind the history, into the convolution's input, and the convolution pads space itself;
- norm, scale, weight, bias and SiLU are five to seven passes over memory: one RMS norm and one SiLU;
- frames are moved before channels and back around every two-dimensional layer: channels lie last in memory
  throughout, where both orders are views of it.
"""

# Shapes: B batch, F frames, H W height / width, C channels last. Memory slots are [B, C, 2, H, W].

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import (
        AutoencoderKLWan,
        WanAttentionBlock,
        WanMidBlock,
        WanResample,
        WanResidualBlock,
        WanRMS_norm,
        WanUpBlock,
    )

CHANNELS_LAST = "b c f h w -> b f h w c"
CHANNELS_SECOND = "b f h w c -> b c f h w"

TINY = 1e-24
"""Added to a mean square; diffusers bounds the norm by 1e-12. Both only keep zeros from dividing by zero."""


HELD = 2
"""Frames of history that a convolution over time reads."""


class Memory(NamedTuple):
    """What the convolutions read, by name (empty before the first frame), and what they leave."""

    old: Mapping[str, Tensor]
    new: dict[str, Tensor]

    @property
    def is_first(self) -> bool:
        """Whether the stream begins with this call."""
        return not self.old

    def join(self, name: str, x_BFHWC: Tensor, held: int = HELD) -> Tensor:
        """Return ``held`` frames of history and the frames in one tensor, and remember its end."""
        batch, frames, *rest = x_BFHWC.shape
        joined = x_BFHWC.new_empty(batch, held + frames, *rest)
        history = self.old.get(name)
        if history is None:
            joined[:, :held] = 0.0
        else:
            joined[:, :held] = rearrange(history, CHANNELS_LAST)
        joined[:, held:] = x_BFHWC
        self.remember(name, joined, held)
        return joined

    def remember(self, name: str, joined_BFHWC: Tensor, held: int = HELD) -> None:
        """Keep the last frames for the next call.

        A copy of its own layout: the strides of a slice tell how long the chunk was, and compiled code asks.
        """
        end = joined_BFHWC[:, -held:].clone(memory_format=torch.contiguous_format)
        self.new[name] = rearrange(end, CHANNELS_SECOND)

    def join_activated(
        self, name: str, norm: WanRMS_norm, x_BFHWC: Tensor, bias_C: Tensor | None = None
    ) -> Tensor:
        """Return history and the frames, normed and activated, in one tensor."""
        assert bias_C is None, "`convolved` has added it"
        return self.join(name, norm_silu(norm, x_BFHWC))

    def convolved(self, conv: nn.Conv3d, joined_BFHWC: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return a convolution over time, and its bias if that is still to be added."""
        return over_time(conv, joined_BFHWC), None


def use_channels_last(vae: nn.Module) -> None:
    """Let every convolution's weight lie with channels last, as its input will."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        elif isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def decode_frames(
    vae: AutoencoderKLWan,
    latents_BCFHW: Tensor,
    memory: Mapping[str, Tensor],
    kind: type[Memory] = Memory,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the pixels of latent frames in [-1, 1], unclamped, and the memory after them."""
    kept = kind(memory, {})
    decoder = vae.decoder
    x = pointwise(vae.post_quant_conv, rearrange(latents_BCFHW, CHANNELS_LAST))
    x = over_time(decoder.conv_in, kept.join("conv_in", x))
    x = middle(decoder.mid_block, x, kept, "mid_block")
    for index, child in enumerate(decoder.up_blocks):
        block = cast("WanUpBlock", child)
        for number, resnet in enumerate(block.resnets):
            x = residual(
                cast("WanResidualBlock", resnet), x, kept, f"up_blocks.{index}.resnets.{number}"
            )
        if block.upsamplers is not None:
            x = upsample(
                cast("WanResample", block.upsamplers[0]),
                x,
                kept,
                f"up_blocks.{index}.upsamplers.0",
            )
    x = over_time(decoder.conv_out, kept.join_activated("conv_out", decoder.norm_out, x))
    return rearrange(x, CHANNELS_SECOND), kept.new


def encode_frames(
    vae: AutoencoderKLWan,
    video_BCFHW: Tensor,
    memory: Mapping[str, Tensor],
    kind: type[Memory] = Memory,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the posterior means of pixels in [-1, 1], and the memory after them."""
    kept = kind(memory, {})
    encoder = vae.encoder
    x = rearrange(video_BCFHW, CHANNELS_LAST)
    x = over_time(encoder.conv_in, kept.join("conv_in", x))
    for index, block in enumerate(encoder.down_blocks):
        name = f"down_blocks.{index}"
        if hasattr(block, "conv1"):
            x = residual(cast("WanResidualBlock", block), x, kept, name)
        else:
            x = downsample(cast("WanResample", block), x, kept, name)
    x = middle(encoder.mid_block, x, kept, "mid_block")
    x = over_time(encoder.conv_out, kept.join_activated("conv_out", encoder.norm_out, x))
    x = pointwise(vae.quant_conv, x)
    return rearrange(x, CHANNELS_SECOND).chunk(2, dim=1)[0], kept.new


# -- layers ---------------------------------------------------------------------------------------


def norm_silu(norm: WanRMS_norm, x_BFHWC: Tensor) -> Tensor:
    """Return SiLU of the RMS norm over channels."""
    return F.silu(rms_norm(norm, x_BFHWC))


def rms_norm(norm: WanRMS_norm, x_BFHWC: Tensor) -> Tensor:
    """Return x / |x| * sqrt(C) * gamma, which is RMS norm; half precision sums in float32 in the kernel."""
    gamma = norm.gamma
    assert isinstance(gamma, Tensor)
    return F.rms_norm(x_BFHWC, (x_BFHWC.shape[-1],), gamma.flatten(), TINY)


def over_time(
    conv: nn.Conv3d, joined_BFHWC: Tensor, stride: int = 1, *, with_bias: bool = True
) -> Tensor:
    """Return a convolution over frames that stand behind their history; it pads space, not time."""
    space = (conv.kernel_size[1] // 2, conv.kernel_size[2] // 2)
    x = F.conv3d(
        rearrange(joined_BFHWC, CHANNELS_SECOND),
        conv.weight,
        conv.bias if with_bias else None,
        stride=(stride, 1, 1),
        padding=(0, *space),
    )
    return rearrange(x, CHANNELS_LAST)


def pointwise(conv: nn.Conv3d | nn.Conv2d, x_BFHWC: Tensor) -> Tensor:
    """Return a 1 x 1 convolution, as the matrix product that it is where channels lie last."""
    return F.linear(x_BFHWC, conv.weight.flatten(1), conv.bias)


def over_space(conv: nn.Conv2d, x_BFHWC: Tensor, stride: int, padding: int) -> Tensor:
    """Return a two-dimensional convolution of every frame."""
    batch = x_BFHWC.shape[0]
    x = F.conv2d(
        rearrange(x_BFHWC, "b f h w c -> (b f) c h w"),
        conv.weight,
        conv.bias,
        stride=stride,
        padding=padding,
    )
    return rearrange(x, "(b f) c h w -> b f h w c", b=batch)


def residual(block: WanResidualBlock, x_BFHWC: Tensor, memory: Memory, name: str) -> Tensor:
    """Return the residual block: twice norm, SiLU and convolution, and the input beside them."""
    x = memory.join_activated(f"{name}.conv1", block.norm1, x_BFHWC)
    x, bias = memory.convolved(block.conv1, x)
    x = memory.join_activated(f"{name}.conv2", block.norm2, x, bias)
    x = over_time(block.conv2, x)
    if isinstance(block.conv_shortcut, nn.Identity):
        return x + x_BFHWC
    return x + pointwise(block.conv_shortcut, x_BFHWC)


def attention(block: WanAttentionBlock, x_BFHWC: Tensor) -> Tensor:
    """Return single-head attention within each frame."""
    batch, _, height, _, _ = x_BFHWC.shape
    tokens = rearrange(rms_norm(block.norm, x_BFHWC), "b f h w c -> (b f) 1 (h w) c")
    query, key, value = pointwise(block.to_qkv, tokens).chunk(3, dim=-1)
    mixed = F.scaled_dot_product_attention(query, key, value)
    mixed = pointwise(block.proj, mixed)
    return x_BFHWC + rearrange(mixed, "(b f) 1 (h w) c -> b f h w c", b=batch, h=height)


def middle(block: WanMidBlock, x_BFHWC: Tensor, memory: Memory, name: str) -> Tensor:
    """Return the middle block: a residual block, then attention and another one."""
    resnets = [cast("WanResidualBlock", resnet) for resnet in block.resnets]
    x = residual(resnets[0], x_BFHWC, memory, f"{name}.resnets.0")
    for number, mix in enumerate(block.attentions, start=1):
        x = attention(cast("WanAttentionBlock", mix), x)
        x = residual(resnets[number], x, memory, f"{name}.resnets.{number}")
    return x


def upsample(block: WanResample, x_BFHWC: Tensor, memory: Memory, name: str) -> Tensor:
    """Return twice the height and width, and twice the frames but for a stream's first one.

    The first frame is not in the time convolution's history either; zeros stand there.
    """
    x = x_BFHWC
    if hasattr(block, "time_conv"):
        first, rest = x.split([1, x.shape[1] - 1], dim=1) if memory.is_first else (x[:, :0], x)
        doubled = over_time_or_none(block.time_conv, memory.join(f"{name}.time_conv", rest))
        doubled = rearrange(doubled, "b f h w (t c) -> b (f t) h w c", t=2)
        x = torch.cat([first, doubled], dim=1)
    wide = repeat(x, "b f h w c -> b f (h 2) (w 2) c")
    return over_space(cast(nn.Conv2d, block.resample[1]), wide, stride=1, padding=1)


def over_time_or_none(conv: nn.Conv3d, joined_BFHWC: Tensor) -> Tensor:
    """Return the convolution over time, of no frames where only history is there."""
    if joined_BFHWC.shape[1] >= conv.kernel_size[0]:
        return over_time(conv, joined_BFHWC)
    return joined_BFHWC.new_empty(*joined_BFHWC[:, :0].shape[:-1], conv.out_channels)


def downsample(block: WanResample, x_BFHWC: Tensor, memory: Memory, name: str) -> Tensor:
    """Return half the height and width, and half the frames but for a stream's first one.

    The time convolution has no padding: its history is the one frame before its first window.
    """
    x = over_space(
        cast(nn.Conv2d, block.resample[1]), F.pad(x_BFHWC, (0, 0, 0, 1, 0, 1)), stride=2, padding=0
    )
    if not hasattr(block, "time_conv"):
        return x
    joined = memory.join(f"{name}.time_conv", x, held=1)
    if not memory.is_first:
        return over_time(block.time_conv, joined, stride=2)
    first = x[:, :1]
    if x.shape[1] == 1:
        return first
    return torch.cat([first, over_time(block.time_conv, x, stride=2)], dim=1)
