"""Swap probe: is an anchor read, does it keep what it held, or does it take everything from the window anew?"""

# Shapes: L layers, B streams, F frames, C channels, T tokens, N heads, D head dim, H W height / width, X features.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.metrics.pan_identity import hero_drawn
from lightning_adastate.streaming.pipeline import PixelStreaming
from lightning_adastate.types import Contents, StreamState
from lightning_adastate.worlds import PanWorld, decode_pan


class Shares(NamedTuple):
    """Least-squares coefficients of what was measured on the stream's own and on the donor's."""

    own: float
    donor: float


class SwapReading(NamedTuple):
    """What one chunk after the swap shows; NaN is "there is nothing to measure".

    Args:
        depth: Chunks since the swap; 1 is the first chunk that sees the donor's contents.
        read: Donor's share in the content's latents: how much the content is made from the anchor.
        keep: Donor's share in the anchor's contents after the chunk.
        take: Own share in them: what came from the stream's own window again.
    """

    depth: int
    read: float
    keep: float
    take: float


@dataclass(frozen=True)
class SwapResult:
    """A swap's outcome.

    Args:
        readings: One per chunk after the swap.
        hero: Shares of own and donor's last seen colours in the colour of the hero that comes back after a hide; NaN
            without a world or without such a return.
        num_heroes: Streams whose hero came back.
    """

    readings: tuple[SwapReading, ...]
    hero: Shares
    num_heroes: int


class SwapProbe:
    """Swap the anchors' contents between streams, go on with the same noise, and ask whose they have become.

    Decoded colours cannot answer whether a state is a memory, for memory may sit in any key or value. Here nothing is
    decoded: the stream that goes on with a donor's contents is regressed on itself and on the donor, both left
    alone. It works for every anchor. A static one keeps all and takes nothing; without an anchor nothing is read.

    Args:
        after_chunks: Chunks before the swap. It must be late enough for the anchor to hold something.
        num_chunks: Chunks after it.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, after_chunks: int = 8, *, num_chunks: int = 4) -> None:
        for name, value in (("after_chunks", after_chunks), ("num_chunks", num_chunks)):
            if value < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {value}")
        self.after_chunks = after_chunks
        self.num_chunks = num_chunks

    @staticmethod
    def check(num_streams: int) -> None:
        """Refuse too few streams.

        Raises:
            ValueError: Naming their number.
        """
        if num_streams < 3:
            raise ValueError(f"a swap needs 3 streams or more, got {num_streams}")

    @torch.no_grad()
    def run(
        self,
        module: PixelStreaming,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        start_video_BFCHW: Tensor | None = None,
        world: PanWorld | None = None,
    ) -> SwapResult:
        """Stream, swap, stream on.

        Args:
            module: What streams.
            prompts: One per stream; the donor of a stream is the next one.
            seed: Of the noise.
            start_video_BFCHW: Pixels the streams continue.
            world: The world the streams show, to find its hero.

        Raises:
            ValueError: If there are fewer than three streams: a regression needs more than one donor.
        """
        self.check(len(prompts))
        state = module.open_stream(prompts, seed=seed, start_video_BFCHW=start_video_BFCHW)
        before = _Watched([], [] if start_video_BFCHW is None else [start_video_BFCHW], [])
        state = _go_on(module, state, self.after_chunks, before)
        alone, swapped = _Watched([], [], []), _Watched([], [], [])
        _go_on(module, state, self.num_chunks, alone)
        donors = torch.arange(len(prompts)).roll(-1)
        _go_on(module, with_contents_of(state, donors), self.num_chunks, swapped)
        readings = tuple(
            SwapReading(
                index + 1,
                shares(swapped.latents[index], alone.latents[index], donors).donor,
                *_kept(swapped.contents[index], alone.contents[index], donors),
            )
            for index in range(self.num_chunks)
        )
        hero, count = Shares(torch.nan, torch.nan), 0
        if world is not None:
            hero, count = _hero(world, before.video, swapped.video, donors)
        return SwapResult(readings, hero, count)


class _Watched(NamedTuple):
    """What is kept of a stream: latents and pixels per chunk, and the anchor's contents after each."""

    latents: list[Tensor]
    video: list[Tensor]
    contents: list[Contents]


def _go_on(
    module: PixelStreaming, state: StreamState, num_chunks: int, watched: _Watched
) -> StreamState:
    for made in module.stream(state, num_chunks):
        watched.latents.append(made.chunk.latents_BFCHW)
        watched.video.append(made.video_BFCHW.float().cpu())
        watched.contents.append(made.state.anchor)
        state = made.state
    return state


def with_contents_of(state: StreamState, donors: Tensor) -> StreamState:
    """Return the state in which every stream has its donor's anchor contents; all else is its own."""
    return replace(state, anchor={name: kv.rows(donors) for name, kv in state.anchor.items()})


def shares(observed_B: Tensor, alone_B: Tensor, donors: Tensor) -> Shares:
    """Regress what was observed on the streams left alone: each on itself and on its donor.

    All are taken as differences from the mean over streams; one pair of coefficients fits all features. Whatever does
    not differ between streams has no say; if nothing does, the shares are NaN.

    Args:
        observed_B: What the swapped streams show ``[B, ...]``.
        alone_B: The same of the streams left alone.
        donors: Index of each stream's donor ``[B]``.
    """
    return _regress(observed_B, alone_B, alone_B[donors.to(alone_B.device)])


def _regress(observed_B: Tensor, own_B: Tensor, donor_B: Tensor) -> Shares:
    """Return the two coefficients that fit what was observed to both, all as differences from the mean over streams."""
    observed, own, donor = (_centred(each) for each in (observed_B, own_B, donor_B))
    gram = torch.stack([torch.stack([(a * b).sum() for b in (own, donor)]) for a in (own, donor)])
    right = torch.stack([(own * observed).sum(), (donor * observed).sum()])
    if not bool(torch.linalg.det(gram) > 1e-9 * gram.diagonal().prod()):
        return Shares(torch.nan, torch.nan)
    return Shares(*torch.linalg.solve(gram, right).tolist())


def _centred(values_B: Tensor) -> Tensor:
    flat = values_B.double().flatten(1)
    return flat - flat.mean(0)


def _kept(observed: Contents, alone: Contents, donors: Tensor) -> tuple[float, float]:
    """Return donor's and own share in contents, every layer's keys and values counting alike."""
    if not observed:
        return torch.nan, torch.nan
    references = _features(alone)
    scales = [each.std(0).mean().clamp(min=1e-12) for each in references]
    after, left_alone = (
        torch.cat([part / scale for part, scale in zip(parts, scales, strict=True)], dim=1)
        for parts in (_features(observed), references)
    )
    found = shares(after, left_alone, donors)
    return found.donor, found.own


def _features(contents: Contents) -> list[Tensor]:
    """Return keys and values of every layer, ``[B, X]`` each."""
    return [
        layer.double().flatten(1)
        for name in sorted(contents)
        for part in (contents[name].key_LBFTND, contents[name].value_LBFTND)
        for layer in part
    ]


def _hero(
    world: PanWorld, before: Sequence[Tensor], after: Sequence[Tensor], donors: Tensor
) -> tuple[Shares, int]:
    """Regress the colour of the hero that comes back on the colours in which own and donor's was last seen."""
    past, future = (decode_pan(world, torch.cat(list(part), dim=1)) for part in (before, after))
    seen, back = hero_drawn(past), hero_drawn(future)
    rows, last, first = [], [], []
    last_of = {}
    for row in range(len(seen)):
        if seen[row].any():
            last_of[row] = past.color_BF3[row, seen[row].nonzero()[-1, 0]]
    for row, donor in enumerate(donors.tolist()):
        hidden = not bool(seen[row, -1]) and not bool(back[row, 0])
        if hidden and bool(back[row].any()) and row in last_of and donor in last_of:
            rows.append(row)
            first.append(future.color_BF3[row, back[row].nonzero()[0, 0]])
            last.append(torch.stack([last_of[row], last_of[donor]]))
    if len(rows) < 3:
        return Shares(torch.nan, torch.nan), len(rows)
    own, donor = torch.stack(last).unbind(1)
    return _regress(torch.stack(first), own, donor), len(rows)
