"""Memory and constants that a stream reuses from chunk to chunk; no state."""

# Shapes: F frames.

from __future__ import annotations

from torch import Tensor

from lightning_adastate.backbones.base import Backbone
from lightning_adastate.streaming.cuda_graphs import PassGraphs
from lightning_adastate.streaming.noise_ahead import NoiseAhead
from lightning_adastate.types import TextKV, TimeEmbedding


class StreamBuffers:
    """Reusable memory for the rotated window, allocated once and filled once per chunk, and constants.

    It holds no state: a new one gives the same stream. Weights must not change while it is in use.

    Args:
        graphs: Records the passes of a full window, where the backbone wants it; ``None`` is a new one.
        ahead: Draws the next chunk's noise in the meantime; ``None`` draws it when it is needed.
    """

    def __init__(self, graphs: PassGraphs | None = None, ahead: NoiseAhead | None = None) -> None:
        self.graphs = PassGraphs() if graphs is None else graphs
        self.ahead = ahead
        self._buffers: dict[str, tuple[Tensor, Tensor]] = {}
        self._numbers: dict[tuple[float, ...], Tensor] = {}
        self._times: dict[tuple[float, ...], TimeEmbedding] = {}
        self._texts: tuple[TextKV, TextKV] | None = None

    def buffers(
        self, name: str, like: Tensor, shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, bool]:
        """Return key and value memory of ``shape``, and whether it is the same as last time."""
        found = self._buffers.get(name)
        fits = found is not None and found[0].shape == shape and found[0].dtype == like.dtype
        if found is None or not fits:
            found = (like.new_empty(shape), like.new_empty(shape))
            self._buffers[name] = found
        return (*found, fits)

    def numbers(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        """Return ``values`` as a tensor ``[1, F]``, made once."""
        if values not in self._numbers:
            self._numbers[values] = like.new_tensor([values])
        return self._numbers[values]

    def time(self, values: tuple[float, ...], backbone: Backbone, like: Tensor) -> TimeEmbedding:
        """Return what the backbone makes of these timesteps, made once."""
        if values not in self._times:
            self._times[values] = backbone.embed_time(self.numbers(values, like))
        return self._times[values]

    def text(self, text: TextKV) -> TextKV:
        """Return text keys and values in memory that stays where it is when the prompt is switched.

        A recorded pass reads it there. Another prompt is copied in, which is less than recording anew.
        """
        if self._texts is None or not _same_sizes(self._texts[1], text):
            self._texts = text, TextKV(*(tuple(part.clone() for part in side) for side in text))
        elif self._texts[0] is not text:
            for own, other in zip(self._texts[1], text, strict=True):
                for into, part in zip(own, other, strict=True):
                    into.copy_(part)
            self._texts = text, self._texts[1]
        return self._texts[1]


def _same_sizes(ours: TextKV, theirs: TextKV) -> bool:
    return all(
        a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        for own, other in zip(ours, theirs, strict=True)
        for a, b in zip(own, other, strict=True)
    )
