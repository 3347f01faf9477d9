"""Keys and values of latent frames: the one currency of anchors, caches and the stream."""

# Shapes: L layers, B batch, F frames, T tokens per frame, N heads, D head dim.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class TokenPlaces(NamedTuple):
    """Where single tokens stand, for anchors that select, merge or pool them.

    Args:
        offset_LBFT: Temporal offset from the frame's own index, ``[L, B, F, T]``; axes of size 1 are
            broadcast.
        row_LBFT: Row in the grid of a live frame; may be between two rows.
        column_LBFT: Column in the grid of a live frame.
    """

    offset_LBFT: Tensor
    row_LBFT: Tensor
    column_LBFT: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> TokenPlaces:
        """Apply ``change`` to all three."""
        return TokenPlaces(*(change(place) for place in self))

    @staticmethod
    def of_grid(rows: int, columns: int, like: Tensor) -> TokenPlaces:
        """Return the places of a full frame, ``[1, 1, 1, T]`` in float32 on the device of ``like``."""
        index = torch.arange(rows * columns, device=like.device)[None, None, None]
        row = index.div(columns, rounding_mode="floor").float()
        return TokenPlaces(torch.zeros_like(row), row, (index % columns).float())


@dataclass(frozen=True)
class KV:
    """Keys and values of some latent frames in all layers. Never written in place.

    Keys are taken after qk-norm and before any rotary embedding, so a frame can be read at any
    temporal index later.

    Args:
        key_LBFTND: ``[L, B, F, T, N, D]``, un-rotated.
        value_LBFTND: ``[L, B, F, T, N, D]``.
        frame_indices: For each frame the latent-frame index it stands for, counted from the start of the
            stream. Host-side integers, so positions cost no synchronisation.
        places: Where the tokens stand; ``None`` is the full grid of a frame in its order.
    """

    key_LBFTND: Tensor
    value_LBFTND: Tensor
    frame_indices: tuple[int, ...]
    places: TokenPlaces | None = None

    def __post_init__(self) -> None:
        assert self.key_LBFTND.shape[2] == len(self.frame_indices), "one frame index per frame"
        assert self.key_LBFTND.shape == self.value_LBFTND.shape, "keys and values differ in shape"

    @property
    def num_frames(self) -> int:
        """Count the frames."""
        return len(self.frame_indices)

    def frames(self, start: int, stop: int | None = None) -> KV:
        """Return frames ``start:stop`` as views."""
        part = slice(start, stop)
        return KV(
            self.key_LBFTND[:, :, part],
            self.value_LBFTND[:, :, part],
            self.frame_indices[part],
            _along_frames(self.places, lambda place: place[:, :, part]),
        )

    def take(self, index: Sequence[int], frame_indices: Sequence[int] | None = None) -> KV:
        """Return the frames at ``index`` in that order, optionally under other ``frame_indices``."""
        where = torch.tensor(index, dtype=torch.long, device=self.key_LBFTND.device)
        names = (
            tuple(self.frame_indices[i] for i in index)
            if frame_indices is None
            else tuple(frame_indices)
        )
        return KV(
            self.key_LBFTND.index_select(2, where),
            self.value_LBFTND.index_select(2, where),
            names,
            _along_frames(self.places, lambda place: place.index_select(2, where)),
        )

    def rows(self, index_B: Tensor) -> KV:
        """Return the frames of other streams of the batch: those at ``index_B`` ``[B]``."""
        where = index_B.to(self.key_LBFTND.device)
        places = self.places
        if places is not None:
            places = places.each(
                lambda place: place if place.shape[1] == 1 else place.index_select(1, where)
            )
        return replace(
            self,
            key_LBFTND=self.key_LBFTND.index_select(1, where),
            value_LBFTND=self.value_LBFTND.index_select(1, where),
            places=places,
        )

    def put(self, index: Sequence[int], other: KV) -> KV:
        """Return these frames with those at ``index`` replaced by ``other``'s; frame_indices stay."""
        where = torch.tensor(index, dtype=torch.long, device=self.key_LBFTND.device)
        return replace(
            self,
            key_LBFTND=self.key_LBFTND.index_copy(2, where, other.key_LBFTND),
            value_LBFTND=self.value_LBFTND.index_copy(2, where, other.value_LBFTND),
        )

    def lerp(self, other: KV, weight: float) -> KV:
        """Move keys and values towards ``other`` by ``weight``; frame_indices stay."""
        return replace(
            self,
            key_LBFTND=self.key_LBFTND.lerp(other.key_LBFTND, weight),
            value_LBFTND=self.value_LBFTND.lerp(other.value_LBFTND, weight),
        )

    def detach(self) -> KV:
        """Return the same frames without a graph."""
        return replace(
            self, key_LBFTND=self.key_LBFTND.detach(), value_LBFTND=self.value_LBFTND.detach()
        )

    @staticmethod
    def cat(parts: Sequence[KV]) -> KV:
        """Join along the frame axis. One part is returned as it is.

        All parts must have the full grid, or all their own places with equal axes.
        """
        if len(parts) == 1:
            return parts[0]
        places = [_along_frames_of(part, part.places) for part in parts if part.places is not None]
        assert len(places) in (0, len(parts)), "full grids and places of tokens do not join"
        return KV(
            torch.cat([part.key_LBFTND for part in parts], dim=2),
            torch.cat([part.value_LBFTND for part in parts], dim=2),
            tuple(frame_index for part in parts for frame_index in part.frame_indices),
            TokenPlaces(*(torch.cat(each, dim=2) for each in zip(*places, strict=True)))
            if places
            else None,
        )


def _along_frames(
    places: TokenPlaces | None, change: Callable[[Tensor], Tensor]
) -> TokenPlaces | None:
    """Change the places of frames; those that are alike for all frames stay."""
    if places is None:
        return None
    return places.each(lambda place: place if place.shape[2] == 1 else change(place))


def _along_frames_of(kv: KV, places: TokenPlaces) -> TokenPlaces:
    """Write the places out for every frame."""
    return places.each(lambda place: place.expand(-1, -1, kv.num_frames, -1))


Contents = Mapping[str, KV]
"""What an anchor carries between chunks: named frames. Treated as immutable, saved by name."""
