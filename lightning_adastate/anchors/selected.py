"""Selected tokens: the ones that recent queries attend to most stay (Deep Forcing, arXiv 2512.05081)."""

# Shapes: L layers, B batch, F frames, T tokens per frame, N heads, D head dim, S = F * T tokens.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.anchors.static import fill, shown
from lightning_adastate.rope import places_table, rotate
from lightning_adastate.types import KV, Committed, Contents, TokenPlaces


class SelectedAnchor(Anchor):
    """Show a sink, and behind it the single tokens of the past that matter most.

    Whenever frames leave the window, each layer scores their tokens and those selected before by the sum,
    over heads and recent queries, of query times key, both rotated at their frame_indices; the best stay, in
    their order. With ``compress_to`` of the cache this is Deep Forcing: sink 10, 2 frames' worth of
    tokens, a window of 21 that is compressed to 16. It needs no training.

    Here the queries are those of the last chunk's clean pass. The paper's are those of the chunk at hand
    at its first noise level and one frame before it.

    Args:
        num_sink: First frames of the stream, shown in front.
        num_selected: How many frames' worth of tokens are selected.
        index: ``slot`` puts selected tokens between sink and window; ``frame`` leaves each at the index
            of its frame, which needs ``SlidingCache``.

    Raises:
        ValueError: If a number is negative or nothing is selected.
    """

    needs_query = True

    def __init__(
        self,
        num_sink: int = 10,
        *,
        num_selected: int = 2,
        index: Literal["slot", "frame"] = "slot",
    ) -> None:
        super().__init__(num_sink + num_selected)
        if num_sink < 0 or num_selected < 1:
            raise ValueError(
                "`num_sink` must be 0 or more and `num_selected` 1 or more, "
                f"got {num_sink} and {num_selected}; without selection use StaticAnchor"
            )
        self.num_sink = num_sink
        self.num_selected = num_selected
        self.index: Literal["slot", "frame"] = index

    def absorb(self, contents: Contents, evicted: KV, retained: Sequence[KV]) -> Contents:
        """Fill the sink, then select among the rest and what was selected before."""
        del retained
        claimed = self.num_claimed(contents, evicted.num_frames)
        contents = fill(contents, evicted, self.num_sink)
        rest = evicted.frames(claimed)
        if not rest.num_frames:
            return contents
        candidates = _tokens(shown(contents, "selected"), rest, contents["query"])
        tokens = rest.key_LBFTND.shape[3]
        count = min(self.num_selected * tokens, candidates.key_LBSND.shape[2])
        best = _scores(candidates, contents["query"]).topk(count, dim=2).indices.sort(2).values
        return {**contents, "selected": _frames(candidates, best, tokens)}

    def commit(self, contents: Contents, committed: Committed) -> Contents:
        """Keep the queries of the chunk, for the next selection."""
        query = committed.query_LBFTND
        assert query is not None, "the streamer gives queries to an anchor that needs them"
        places = TokenPlaces.of_grid(*committed.grid, like=query)
        return {**contents, "query": KV(query, query, committed.content.frame_indices, places)}

    def read(self, contents: Contents, window_start: int) -> tuple[KV, ...]:
        """Show the sink, then the selected tokens, in front of the window."""
        selected = shown(contents, "selected")
        slots = window_start - sum(kv.num_frames for kv in selected)
        if self.index == "slot":
            frame_indices = tuple(range(slots, window_start))
            selected = tuple(
                replace(_without_offset(kv), frame_indices=frame_indices) for kv in selected
            )
        sink = shown(contents, "sink")
        first = slots - sum(kv.num_frames for kv in sink)
        return (*(replace(kv, frame_indices=tuple(range(first, slots))) for kv in sink), *selected)

    def num_shown(self, contents: Contents) -> int:
        """Count the frames of the sink and the selected tokens."""
        parts = (*shown(contents, "sink"), *shown(contents, "selected"))
        return sum(kv.num_frames for kv in parts)

    def num_claimed(self, contents: Contents, num_evicted: int) -> int:
        """Claim what still fits into the sink."""
        have = sum(kv.num_frames for kv in shown(contents, "sink"))
        return min(num_evicted, self.num_sink - have)


class _Tokens(NamedTuple):
    """Single tokens, oldest first: what they hold, and where they stand (time from ``origin``)."""

    key_LBSND: Tensor
    value_LBSND: Tensor
    places: TokenPlaces
    origin: int


def _tokens(selected: Sequence[KV], rest: KV, query: KV) -> _Tokens:
    """Return the candidates: what was selected before, then the tokens that just left."""
    assert query.places is not None
    origin = rest.frame_indices[-1]
    keys, values, places = [], [], []
    for kv in (*selected, rest):
        layers, rows, frames, tokens = kv.key_LBFTND.shape[:4]
        own = query.places if kv.places is None else kv.places
        born = own.row_LBFT.new_tensor(
            [float(frame_index - origin) for frame_index in kv.frame_indices]
        )
        moved = own._replace(offset_LBFT=own.offset_LBFT + born[None, None, :, None])
        shape = (layers, rows, frames, tokens)
        places.append(TokenPlaces(*(place.expand(shape).flatten(2) for place in moved)))
        keys.append(kv.key_LBFTND.flatten(2, 3))
        values.append(kv.value_LBFTND.flatten(2, 3))
    joined = TokenPlaces(*(torch.cat(each, dim=2) for each in zip(*places, strict=True)))
    return _Tokens(torch.cat(keys, dim=2), torch.cat(values, dim=2), joined, origin)


def _scores(candidates: _Tokens, query: KV) -> Tensor:
    """Return the sum over heads and queries of query times key, rotated, ``[L, B, S]``."""
    assert query.places is not None
    head_dim = query.key_LBFTND.shape[-1]
    offset, row, column = query.places
    born = offset.new_tensor(
        [float(frame_index - candidates.origin) for frame_index in query.frame_indices]
    )
    table = places_table(offset + born[None, None, :, None], row, column, head_dim)
    query_LBSND = rotate(query.key_LBFTND.flatten(2, 3), table).float().sum(dim=2, keepdim=True)
    time, row, column = (place.unsqueeze(2) for place in candidates.places)
    keys = rotate(candidates.key_LBSND, places_table(time, row, column, head_dim))
    return (keys.float() * query_LBSND).sum(dim=(3, 4))


def _frames(tokens: _Tokens, index_LBS: Tensor, per_frame: int) -> KV:
    """Return the tokens at ``index_LBS`` as frames of ``per_frame``, each at its own place."""
    wide = index_LBS[..., None, None].expand(-1, -1, -1, *tokens.key_LBSND.shape[3:])
    count = index_LBS.shape[2] // per_frame
    shape = (count, per_frame)
    return KV(
        tokens.key_LBSND.gather(2, wide).unflatten(2, shape),
        tokens.value_LBSND.gather(2, wide).unflatten(2, shape),
        (tokens.origin,) * count,
        tokens.places.each(lambda place: place.gather(2, index_LBS).unflatten(2, shape)),
    )


def _without_offset(kv: KV) -> KV:
    """Return frames whose tokens stand at the frame's own index, at their own row and column."""
    assert kv.places is not None
    still = torch.zeros_like(kv.places.offset_LBFT)
    return replace(kv, places=kv.places._replace(offset_LBFT=still))
