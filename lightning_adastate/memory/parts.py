"""What a prediction of memory is made of: parts that are always there, and moments that pass."""

# Shapes: B batch, F frames, C channels, H W height / width of pixels or latents.

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from lightning_adastate.codecs import Codec
from lightning_adastate.memory.passes import LiveBytes, Precision, rehearsal, tensor_bytes
from lightning_adastate.memory.stand_ins import UMT5_XXL
from lightning_adastate.text import TextEncoder


class Line(NamedTuple):
    """A part, its bytes, and what is to be known about it."""

    part: str
    size: int
    note: str = ""


class Remedy(NamedTuple):
    """An option that makes a phase smaller, and by how many bytes."""

    option: str
    saves: int


@dataclass(frozen=True)
class Sizes:
    """Sizes of a run.

    Args:
        batch: Videos per process and step.
        streams: Streams in lock-step, for generating.
        latent_shape: ``(C, H, W)`` of a latent frame.
        num_frames: Latent frames of a training video.
        processes: Processes that share weights, gradients and optimiser states.
    """

    batch: int
    streams: int
    latent_shape: tuple[int, int, int]
    num_frames: int
    processes: int = 1


@dataclass(frozen=True)
class Phase:
    """A verb's memory.

    Args:
        name: The verb.
        resident: What is there all the time.
        moments: What is there for a while; no two at a time.
        remedies: What would help.
    """

    name: str
    resident: tuple[Line, ...]
    moments: tuple[Line, ...]
    remedies: tuple[Remedy, ...] = ()

    @property
    def largest(self) -> Line:
        """Return the moment that takes most."""
        return max(self.moments, key=lambda line: line.size)

    @property
    def total(self) -> int:
        """Return the bytes alive at most."""
        return sum(line.size for line in self.resident) + self.largest.size

    def size_of(self, part: str) -> int:
        """Return the bytes of a part, 0 if it is not there."""
        return sum(line.size for line in (*self.resident, *self.moments) if line.part == part)

    def with_part(self, part: str, size: int) -> Phase:
        """Return the phase with another size of a resident part."""
        changed = (
            line._replace(size=size) if line.part == part else line for line in self.resident
        )
        return replace(self, resident=tuple(changed))


class CodecMemory(NamedTuple):
    """Bytes of a codec: what it remembers of a stream, and what comes and goes while it works."""

    held: int
    work: int


def decoding(
    codec: Codec, precision: Precision, latent_shape: tuple[int, int, int], rows: int, frames: int
) -> CodecMemory:
    """Return what decoding a chunk of ``frames`` latents takes, behind the first chunk."""
    copied = _on_meta(codec, precision)
    with rehearsal(), torch.no_grad():
        copied.to_empty(device="cpu")
        with LiveBytes() as live:
            _, memory = copied.decode(torch.empty(rows, frames, *latent_shape), copied.empty())
            held = live.now
            live.mark()
            latents = torch.empty(rows, frames, *latent_shape)
            copied.decode(latents, memory)
            return CodecMemory(tensor_bytes(memory.values()), live.peak - held)


def encoding(
    codec: Codec, precision: Precision, latent_shape: tuple[int, int, int], rows: int, frames: int
) -> int:
    """Return what encoding clips of ``frames`` latents takes, their pixels included."""
    copied = _on_meta(codec, precision)
    height, width = (codec.spatial_stride * size for size in latent_shape[1:])
    with rehearsal(), torch.no_grad():
        copied.to_empty(device="cpu")
        live = LiveBytes()
        with live:
            copied.encode(torch.empty(rows, codec.pixel_frames(frames), 3, height, width))
        return live.peak


def _on_meta(codec: Codec, precision: Precision) -> Codec:
    dtype = None if precision.is_wide else precision.weights
    copied = copy.deepcopy(codec)
    nn.Module.to(copied, device="meta", dtype=dtype)
    return copied


class TextMemory(NamedTuple):
    """Bytes of a text encoder: what stays, and what comes while it encodes a new prompt."""

    stays: int
    comes: int

    def lines(self) -> Sequence[Line]:
        """Return what stays; for streams, whose prompts are encoded before anything else is there."""
        note = "weights"
        if self.comes:
            note = f"away; {self.comes / 1e9:.1f} GB while it encodes a new prompt"
        return [Line("text encoder", self.stays, note)]


def text_memory(encoder: TextEncoder, precision: Precision) -> TextMemory:
    """Return what a text encoder takes."""
    inner = getattr(encoder, "encoder", encoder)
    after = getattr(inner, "after", None)
    if after is None:
        return TextMemory(precision.stored(encoder), 0)
    size = UMT5_XXL * text_dtype(encoder).itemsize
    return TextMemory(size, 0) if after == "keep" else TextMemory(0, size)


def text_dtype(encoder: TextEncoder) -> torch.dtype:
    """Return the format of the embeddings."""
    inner = getattr(encoder, "encoder", encoder)
    found = getattr(inner, "dtype", torch.float32)
    return found if isinstance(found, torch.dtype) else torch.float32
