"""Does the hero come back as it was? Hides and returns of a stream of PanWorld, read off its pixels."""

# Shapes: B batch, F frames.

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.worlds import PanReading, PanWorld

KEPT_DISTANCE = 0.3
"""A hero within this RGB distance of the colour it was last seen in is the same one."""

MIN_SEEN = 2
"""Frames in a row the hero must be drawn to count as seen; fewer are a flicker."""

MIN_HIDDEN = 5
"""Frames in a row without a hero that count as a hide."""

OVERDUE = 2.0
"""A hide at a stream's end counts as lost once it has lasted this many times the world's longest."""


class HeroCycle(NamedTuple):
    """One hide and what followed.

    Args:
        hidden: First frame without the hero.
        returned: First frame in which it is back; ``None`` if it never came.
        kept: Whether it came back in the colour in which it was last seen.
    """

    hidden: int
    returned: int | None
    kept: bool

    @property
    def num_hidden(self) -> int | None:
        """Count the frames it was away, or ``None`` if it never came."""
        return None if self.returned is None else self.returned - self.hidden


def hero_drawn(reading: PanReading) -> Tensor:
    """Return in which frames a hero is drawn, ``[B, F]``."""
    return reading.contrast_BF > 0.05 + 2.0 * reading.residual_BF


def hero_cycles(
    world: PanWorld, reading: PanReading, longest_hide_B: Tensor
) -> list[list[HeroCycle]]:
    """Return every hide of every stream, in order.

    A run of the hero's shows shorter than ``MIN_SEEN`` frames is ignored, so is a hide shorter than ``MIN_HIDDEN``.
    A hide that has not ended at the stream's end is a cycle, and a lost one, if it is overdue.

    Args:
        world: Where the hero lives.
        reading: What the streams show.
        longest_hide_B: Frames of the world's longest hide at each stream's speed.
    """
    if not world.hides:
        return [[] for _ in longest_hide_B]
    drawn_BF = hero_drawn(reading)
    streams = []
    for row, longest in enumerate(longest_hide_B.tolist()):
        seen = _runs(drawn_BF[row].tolist())
        colors = [reading.color_BF3[row, a:b].median(dim=0).values for a, b in seen]
        cycles = []
        for index, ((_, hidden), (back, _)) in enumerate(pairwise(seen)):
            if back - hidden >= MIN_HIDDEN:
                distance = (colors[index + 1] - colors[index]).square().sum().sqrt()
                cycles.append(HeroCycle(hidden, back, bool(distance < KEPT_DISTANCE)))
        if seen and drawn_BF.shape[1] - seen[-1][1] > max(MIN_HIDDEN, OVERDUE * longest):
            cycles.append(HeroCycle(seen[-1][1], None, False))
        streams.append(cycles)
    return streams


def retention(cycles: Sequence[Sequence[HeroCycle]]) -> tuple[Tensor, Tensor]:
    """Return the share of kept heroes per stream (NaN without a cycle) and the number of cycles, ``[B]``."""
    count = torch.tensor([float(len(each)) for each in cycles], dtype=torch.float64)
    kept = torch.tensor([float(sum(one.kept for one in each)) for each in cycles]).double()
    return kept / count, count


def retention_per_cycle(cycles: Sequence[Sequence[HeroCycle]]) -> list[tuple[int, int]]:
    """Return for the first, second, ... hide of a stream how many streams kept their hero, of how many."""
    most = max((len(each) for each in cycles), default=0)
    reached = [[each[index] for each in cycles if index < len(each)] for index in range(most)]
    return [(sum(one.kept for one in each), len(each)) for each in reached]


def _runs(drawn: list[bool]) -> list[tuple[int, int]]:
    """Return first and end of every run of frames in which the hero is seen."""
    runs, start = [], 0
    for value, group in groupby(drawn):
        end = start + len(list(group))
        if value and end - start >= MIN_SEEN:
            runs.append((start, end))
        start = end
    return runs
