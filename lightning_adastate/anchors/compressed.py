"""Compressed middle: frames that left, with fewer tokens each, the most relevant shown (PackForcing)."""

# Shapes: L layers, B batch, F frames, T tokens per frame, N heads, D head dim.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.anchors.static import fill, shown
from lightning_adastate.types import KV, Committed, Contents, TokenPlaces


class CompressedAnchor(Anchor):
    """Show a full sink and, behind it, the packed frames most relevant to recent queries.

    Each frame gets a packed twin when it is committed; when the frame leaves the window, the twin enters
    a bank. Of the bank, each layer shows the frames with the highest mean of query times key, un-rotated,
    for the last chunk's queries, in the order of time and directly in front of the window.

    Keys and values are packed by averaging patches of tokens. PackForcing trains a compressor on latents
    and pixels; it is not public, and neither are its sizes: the defaults below are ours.

    Args:
        num_sink: First frames of the stream, shown in full.
        num_packed: Packed frames shown.
        bank_frames: Packed frames kept; the oldest go.
        stride: Rows and columns of tokens that become one.

    Raises:
        ValueError: If a number is out of range or the bank is smaller than what is shown.
    """

    needs_query = True

    def __init__(
        self,
        num_sink: int = 3,
        *,
        num_packed: int = 6,
        bank_frames: int = 24,
        stride: tuple[int, int] = (4, 8),
    ) -> None:
        super().__init__(num_sink + num_packed)
        if num_sink < 0 or num_packed < 1 or bank_frames < num_packed:
            raise ValueError(
                "`num_sink` must be 0 or more, `num_packed` 1 or more and `bank_frames` at least that, "
                f"got {num_sink}, {num_packed} and {bank_frames}"
            )
        if min(stride) < 1:
            raise ValueError(f"`stride` must be 1 or more each, got {tuple(stride)}")
        self.num_sink = num_sink
        self.num_packed = num_packed
        self.bank_frames = bank_frames
        self.stride = (stride[0], stride[1])

    def absorb(self, contents: Contents, evicted: KV, retained: Sequence[KV]) -> Contents:
        """Fill the sink with the first frames; the twins of all later ones enter the bank."""
        del retained
        gone = set(evicted.frame_indices[self.num_claimed(contents, evicted.num_frames) :])
        contents = fill(contents, evicted, self.num_sink)
        twins = contents["twins"]
        enter = [i for i, frame_index in enumerate(twins.frame_indices) if frame_index in gone]
        stay = [
            i
            for i, frame_index in enumerate(twins.frame_indices)
            if frame_index > evicted.frame_indices[-1]
        ]
        changed = {**contents, "twins": twins.take(stay)}
        if enter:
            bank = KV.cat([*shown(contents, "bank"), twins.take(enter)])
            changed["bank"] = bank.frames(max(0, bank.num_frames - self.bank_frames))
        return changed

    def commit(self, contents: Contents, committed: Committed) -> Contents:
        """Pack the chunk, and keep the mean of its queries."""
        query_LBFTND = committed.query_LBFTND
        assert query_LBFTND is not None, "the streamer gives queries to an anchor that needs them"
        mean = query_LBFTND.mean(dim=(2, 3), keepdim=True)
        twin = self.pack(committed.content, committed.grid)
        return {
            **contents,
            "query": KV(mean, mean, committed.content.frame_indices[-1:]),
            "twins": KV.cat([*shown(contents, "twins"), twin]),
        }

    def read(self, contents: Contents, window_start: int) -> tuple[KV, ...]:
        """Show the sink and the best of the bank, directly in front of the window."""
        packed = tuple(self._best(bank, contents["query"]) for bank in shown(contents, "bank"))
        slots = window_start - sum(kv.num_frames for kv in packed)
        sink = shown(contents, "sink")
        first = slots - sum(kv.num_frames for kv in sink)
        return (
            *(replace(kv, frame_indices=tuple(range(first, slots))) for kv in sink),
            *(replace(kv, frame_indices=tuple(range(slots, window_start))) for kv in packed),
        )

    def num_shown(self, contents: Contents) -> int:
        """Count the sink's frames and the packed ones that will be shown."""
        bank = sum(kv.num_frames for kv in shown(contents, "bank"))
        return sum(kv.num_frames for kv in shown(contents, "sink")) + min(self.num_packed, bank)

    def num_claimed(self, contents: Contents, num_evicted: int) -> int:
        """Claim what still fits into the sink."""
        have = sum(kv.num_frames for kv in shown(contents, "sink"))
        return min(num_evicted, self.num_sink - have)

    def pack(self, frames: KV, grid: tuple[int, int]) -> KV:
        """Return frames with one token per patch of ``stride``, placed at the middle of its tokens."""
        rows, columns = (
            math.ceil(size / step) for size, step in zip(grid, self.stride, strict=True)
        )
        sample = frames.key_LBFTND
        row = _middles(rows, grid[0], sample.device)
        column = _middles(columns, grid[1], sample.device)
        row_LBFT = row.repeat_interleave(columns)[None, None, None]
        places = TokenPlaces(
            torch.zeros_like(row_LBFT), row_LBFT, column.repeat(rows)[None, None, None]
        )
        return KV(
            _pool(frames.key_LBFTND, grid, (rows, columns)),
            _pool(frames.value_LBFTND, grid, (rows, columns)),
            frames.frame_indices,
            places,
        )

    def _best(self, bank: KV, query: KV) -> KV:
        """Return the packed frames with the highest affinity to the query, in their order."""
        count = min(self.num_packed, bank.num_frames)
        affinity_LBF = (bank.key_LBFTND * query.key_LBFTND).sum(dim=(4, 5)).mean(dim=3)
        best = affinity_LBF.topk(count, dim=2).indices.sort(dim=2).values
        wide = best[..., None, None, None].expand(-1, -1, -1, *bank.key_LBFTND.shape[3:])
        return KV(
            bank.key_LBFTND.gather(2, wide),
            bank.value_LBFTND.gather(2, wide),
            bank.frame_indices[:count],
            bank.frames(0, count).places,  # alike for all frames
        )


def _pool(x_LBFTND: Tensor, grid: tuple[int, int], packed: tuple[int, int]) -> Tensor:
    """Average the tokens of a ``grid`` down to a smaller one."""
    layers, rows, frames, _, heads, _ = x_LBFTND.shape
    planes = rearrange(x_LBFTND, "l b f (h w) n d -> (l b f) (n d) h w", h=grid[0])
    pooled = functional.adaptive_avg_pool2d(planes, packed)
    return rearrange(
        pooled, "(l b f) (n d) h w -> l b f (h w) n d", l=layers, b=rows, f=frames, n=heads
    )


def _middles(parts: int, size: int, device: torch.device) -> Tensor:
    """Return the middle of each of ``parts`` equal parts of ``size`` tokens, float32."""
    index = torch.arange(parts, device=device, dtype=torch.float32)
    return (index + 0.5) * (size / parts) - 0.5
