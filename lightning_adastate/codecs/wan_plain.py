"""Wan's VAE, one latent frame at a time through diffusers' own modules; the reference of the fast path.

diffusers keeps a list with one slot per causal convolution, filled in the order of execution. A slot is
``None`` before the first frame, holds one or two input frames after it, or the word "Rep". Here a slot has the
name of its module and always as many frames as will be read: history before the first frame is zeros, which
is what the convolution pads with. So both paths read and write the same memory.
"""

# Shapes: B batch, C channels, F frames, H W height / width; diffusers has channels before frames.

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

Slots = list[Tensor | str | None]


def slot_frames(half: nn.Module) -> dict[str, int]:
    """Return how many frames of history each convolution over time reads, in order of execution."""
    return {
        name: module.kernel_size[0] - module.stride[0]
        for name, module in half.named_modules()
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1
    }


def decode_frames(
    vae: AutoencoderKLWan, latents_BCFHW: Tensor, memory: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the pixels of latent frames in [-1, 1], unclamped, and the memory after them."""
    frames = slot_frames(vae.decoder)
    slots = _slots(frames, memory)
    parts = []
    # post_quant_conv is 1 x 1 x 1; frame by frame, so that a chunk's length cannot change its rounding.
    for latent in latents_BCFHW.split(1, dim=2):
        hidden = vae.post_quant_conv(latent)
        parts.append(vae.decoder(hidden, feat_cache=slots, feat_idx=[0]))
        slots = _whole(slots, frames)
    return torch.cat(parts, dim=2), _named(frames, slots)


def encode_frames(
    vae: AutoencoderKLWan, video_BCFHW: Tensor, memory: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the posterior means of pixels in [-1, 1], and the memory after them."""
    frames = slot_frames(vae.encoder)
    slots = _slots(frames, memory)
    first = 0 if memory else 1
    groups = [video_BCFHW[:, :, :first]] if first else []
    if video_BCFHW.shape[2] > first:
        groups += video_BCFHW[:, :, first:].split(4, dim=2)
    parts = []
    for group in groups:
        hidden = vae.encoder(group, feat_cache=slots, feat_idx=[0])
        slots = _whole(slots, frames)
        parts.append(vae.quant_conv(hidden).chunk(2, dim=1)[0])
    return torch.cat(parts, dim=2), _named(frames, slots)


def _slots(frames: Mapping[str, int], memory: Mapping[str, Tensor]) -> Slots:
    """Return the memory as diffusers' list."""
    return [memory.get(name) for name in frames]


def _named(frames: Mapping[str, int], slots: Slots) -> dict[str, Tensor]:
    """Return the list under the names of its modules."""
    named = {}
    for name, slot in zip(frames, slots, strict=True):
        assert isinstance(slot, Tensor), f"diffusers left the memory of {name} empty"
        named[name] = slot
    return named


def _whole(slots: Slots, frames: Mapping[str, int]) -> Slots:
    """Return the list with as many frames in every slot as will be read."""
    whole: Slots = []
    for slot, wanted in zip(slots, frames.values(), strict=True):
        if isinstance(slot, str):
            # A temporal upsampler after the first frame: its own history is zeros. The convolution before
            # it has the same shape, and is the slot before it.
            before = whole[-1]
            assert isinstance(before, Tensor)
            whole.append(torch.zeros_like(before))
        elif isinstance(slot, Tensor) and slot.shape[2] < wanted:
            batch, channels, held, *size = slot.shape
            missing = slot.new_zeros(batch, channels, wanted - held, *size)
            whole.append(torch.cat([missing, slot], dim=2))
        else:
            whole.append(slot)
    return whole
