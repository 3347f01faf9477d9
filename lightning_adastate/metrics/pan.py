"""What a stream of PanWorld did, measured against the truth: motion, place, identity and drift."""

# Shapes: B episodes, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_adastate.metrics.pan_identity import hero_cycles, hero_drawn, retention
from lightning_adastate.worlds import PanReading, PanTruth, PanWorld, decode_pan, wrap

MIN_LATE_FRAMES = 14
TELEPORT_PIXELS = 10.0
RETURN_PIXELS = 2.0
AWAY_PIXELS = 5.0
GOOD_RESIDUAL = 0.15


class PanScores(NamedTuple):
    """One value per episode, ``[B]`` float64. *Late* is the last third, 14 frames or more.

    ``slope``: pace of the camera over the generated frames, as a share of the prompted one.
    ``displacement``: how far it is late, as a share of the prompted way; 0 is frozen. ``loc_err``: late
    distance in pixels from where it should be; the shake is in it. ``shake``: amount of shake, as a
    share of the world's. ``id_bias``: distance in RGB of the late hero's mean colour from the true one.
    ``bg_rmse``: late distance of the background from the map. ``drift``: change of that distance from
    the first to the last 15 %. ``novelty``: map columns shown for the first time, as a share of the
    prompted. ``return_to_start``: share of the late frames that should be 5 pixels or more from the
    start, but show it within 2; NaN if there are none. ``teleport``: share of steps of more than 10.
    ``hero``: share of the generated frames in which a hero is drawn, as a share of the true. ``retention``: share
    of its hides after which the hero came back in the colour it was last seen in, a return that never came being
    lost; NaN if it never hid. ``cycles``: number of these hides.
    """

    slope: Tensor
    displacement: Tensor
    loc_err: Tensor
    shake: Tensor
    id_bias: Tensor
    bg_rmse: Tensor
    drift: Tensor
    novelty: Tensor
    return_to_start: Tensor
    teleport: Tensor
    hero: Tensor
    retention: Tensor
    cycles: Tensor


PAN_IDEAL = {
    "slope": 1.0,
    "displacement": 1.0,
    "loc_err": 0.0,
    "shake": 1.0,
    "id_bias": 0.0,
    "bg_rmse": 0.0,
    "drift": 0.0,
    "novelty": 1.0,
    "return_to_start": 0.0,
    "teleport": 0.0,
    "hero": 1.0,
    "retention": 1.0,
    "cycles": math.nan,
}
"""What to come near to; none of these is better the higher it is. Cycles depend on the episodes."""


def pan_scores(
    world: PanWorld, video_BFCHW: Tensor, truth: PanTruth, *, num_given: int = 3
) -> PanScores:
    """Score videos ``[B, F, 3, H, W]`` whose first ``num_given`` frames were given, not generated.

    Raises:
        ValueError: If there are not at least four generated frames for each truth.
    """
    return score_reading(world, decode_pan(world, video_BFCHW), truth, num_given=num_given)


def score_reading(
    world: PanWorld, reading: PanReading, truth: PanTruth, *, num_given: int = 3
) -> PanScores:
    """Score videos by what they show, for who scores them at several lengths and reads them once.

    Raises:
        ValueError: As ``pan_scores`` does.
    """
    batch, num_frames = reading.position_BF.shape
    if batch != len(truth.start_B):
        raise ValueError(f"expected one truth per video, got {len(truth.start_B)} for {batch}")
    if num_given < 1 or num_frames - num_given < 4:
        raise ValueError(
            f"expected 1 or more given frames and 4 generated, got {num_given} of {num_frames}"
        )
    late = -min(max(num_frames // 3, MIN_LATE_FRAMES), num_frames - num_given)
    step = wrap(reading.position_BF.diff(dim=1), world.num_columns)
    time = torch.arange(num_frames, dtype=torch.float64)
    way = truth.velocity_B[:, None] * time
    # Counted step by step from the first frame: a long way goes round the map.
    begin = wrap(reading.position_BF[:, :1] - truth.start_B[:, None], world.num_columns)
    moved = begin + torch.cat([torch.zeros_like(begin), step.cumsum(1)], dim=1)
    gone, missing = moved[:, late:], moved - way
    away = way[:, late:].abs() > AWAY_PIXELS
    travel = moved[:, num_given:]
    back = gone.abs() < RETURN_PIXELS
    drawn = (
        hero_drawn(reading) if world.hides else torch.ones_like(truth.visible_BF[:, :num_frames])
    )
    kept, cycles = retention(hero_cycles(world, reading, world.longest_hide(truth.velocity_B)))
    true_hero = truth.visible_BF[:, num_given:num_frames].double().mean(1)
    clock = time[num_given:] - time[num_given:].mean()
    residual = reading.residual_BF[:, num_given:]
    part = max(1, round(0.15 * residual.shape[1]))
    return PanScores(
        slope=(travel * clock).sum(1) / clock.square().sum() / truth.velocity_B,
        displacement=(gone / way[:, late:]).mean(1),
        loc_err=missing[:, late:].abs().mean(1),
        shake=travel.diff(dim=1).std(1) / math.sqrt(2.0) / (world.shake or 1.0),
        id_bias=_identity_bias(reading, truth, drawn[:, late:]),
        bg_rmse=residual[:, late:].mean(1),
        drift=(residual[:, -part:].mean(1) - residual[:, :part].mean(1)).abs(),
        novelty=_novelty(world, reading, truth, num_given),
        return_to_start=(back & away).sum(1) / away.sum(1),
        teleport=(step[:, num_given - 1 :].abs() > TELEPORT_PIXELS).double().mean(1),
        hero=drawn[:, num_given:].double().mean(1) / true_hero,
        retention=kept,
        cycles=cycles,
    )


def _identity_bias(reading: PanReading, truth: PanTruth, drawn_late_BF: Tensor) -> Tensor:
    """Compare colours where a hero is drawn; NaN where none is. A hero who never hides must be there."""
    there = drawn_late_BF.double()
    total = (reading.color_BF3[:, -there.shape[1] :] * there[..., None]).sum(1)
    error = total / there.sum(1)[:, None] - truth.color_B3
    return error.square().sum(-1).sqrt()


def _novelty(world: PanWorld, reading: PanReading, truth: PanTruth, num_given: int) -> Tensor:
    """Count columns shown in a picture that fits the map and not in a given frame."""
    batch, num_frames = reading.position_BF.shape
    first = reading.position_BF.floor().long()
    columns = first[..., None] + torch.arange(world.width + 1)
    good = (reading.residual_BF < GOOD_RESIDUAL)[..., None].expand(columns.shape)

    def shown(frames: slice) -> Tensor:
        seen = torch.zeros(batch, world.num_columns)
        index = (columns[:, frames] % world.num_columns).flatten(1)
        return seen.scatter_add(1, index, good[:, frames].flatten(1).float()) > 0

    new = (shown(slice(num_given, None)) & ~shown(slice(num_given))).sum(1)
    return new / (truth.velocity_B.abs() * (num_frames - num_given))


class PanMetrics(Metric):
    """Average ``PanScores`` over all episodes of all ranks; ``compute`` returns a value per name.

    Args:
        world: The world the videos claim to show.
        num_given: Frames at the start of each video that were given.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, world: PanWorld, *, num_given: int = 3) -> None:
        super().__init__()
        if num_given < 1:
            raise ValueError(f"`num_given` must be 1 or more, got {num_given}")
        self.world = world
        self.num_given = num_given
        zeros = torch.zeros(len(PanScores._fields), dtype=torch.float64)
        self.add_state("total", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("count", zeros.clone(), dist_reduce_fx="sum")

    def update(self, video_BFCHW: Tensor, truth: PanTruth) -> None:
        """Add videos ``[B, F, 3, H, W]`` in [0, 1] and what is true of them."""
        scores = torch.stack(
            pan_scores(self.world, video_BFCHW, truth, num_given=self.num_given)
        ).to(self.total.device)
        self.total = self.total + scores.nan_to_num(0.0).sum(1)
        self.count = self.count + (~scores.isnan()).sum(1)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of every score."""
        mean = self.total / self.count
        return dict(zip(PanScores._fields, mean.unbind(), strict=True))
