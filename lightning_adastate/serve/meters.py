"""What the live plots show of a lane: motion, drift and, where the world knows the truth, identity."""

# Shapes: F frames, C colour, H W height / width in pixels.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.metrics.pan_identity import hero_drawn
from lightning_adastate.metrics.video_frames import frame_looks
from lightning_adastate.worlds import PanWorld, decode_pan, wrap


class Reading(NamedTuple):
    """One number each for a chunk; ``None`` is not known.

    ``motion``: mean change from frame to frame, in 8-bit levels; in a world, median step of the camera in the
    prompted direction, in pixels per frame. ``asked``: what the prompt asks for, in the same unit. ``drift``: how far brightness, contrast and
    saturation are from those of the lane's first chunk, in [0, 1] each, Euclidean; in a world, root mean square
    distance of the scene from the map. ``identity``: distance in RGB of the hero's colour from the true one.
    """

    motion: float | None
    asked: float | None
    drift: float
    identity: float | None


class Meter:
    """Measure any video, chunk by chunk."""

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._first_looks: Tensor | None = None

    def forget(self) -> None:
        """Begin anew: the next chunk does not continue the last one."""
        self._last = None

    def read(self, video_FCHW: Tensor, prompt: str) -> Reading:
        """Measure the next chunk ``[F, 3, H, W]`` in [0, 1]."""
        del prompt
        joined = self._joined(video_FCHW)
        change = (joined[1:] - joined[:-1]).abs().mean() * 255.0 if len(joined) > 1 else None
        looks = frame_looks(video_FCHW[None])
        seen = torch.stack([looks.luma, looks.contrast, looks.saturation]).mean((1, 2))
        if self._first_looks is None:
            self._first_looks = seen
        drift = (seen - self._first_looks).norm()
        return Reading(None if change is None else float(change), None, float(drift), None)

    def _joined(self, video_FCHW: Tensor) -> Tensor:
        joined = video_FCHW if self._last is None else torch.cat([self._last, video_FCHW])
        self._last = video_FCHW[-1:]
        return joined


class PanMeter(Meter):
    """Measure a stream of PanWorld against what is true of its episode.

    Args:
        world: Where it plays.
        color_3: The hero's true colour, RGB.
    """

    def __init__(self, world: PanWorld, color_3: Tensor) -> None:
        super().__init__()
        self.world = world
        self.color_3 = color_3

    def read(self, video_FCHW: Tensor, prompt: str) -> Reading:
        """Measure the next chunk ``[F, 3, H, W]`` in [0, 1]."""
        joined = self._joined(video_FCHW)
        reading = decode_pan(self.world, joined[None])
        step = wrap(reading.position_BF.diff(dim=1), self.world.num_columns)
        asked = self._asked(prompt)
        motion = None
        if step.numel():
            motion = float(step.median()) * (-1.0 if asked is not None and asked < 0 else 1.0)
        count = len(video_FCHW)
        drawn = hero_drawn(reading)[0, -count:]
        identity = None
        if bool(drawn.any()):
            color = reading.color_BF3[0, -count:][drawn].mean(0)
            identity = float((color - self.color_3).norm())
        drift = float(reading.residual_BF[0, -count:].mean())
        return Reading(motion, None if asked is None else abs(asked), drift, identity)

    def _asked(self, prompt: str) -> float | None:
        """Return the velocity that a prompt names; a prompt of other words names none."""
        words = " ".join(prompt.lower().split())
        known = {self.world.prompt(each): each for each in self.world.velocities}
        return known.get(words)
