"""PanWorld: a slow prompted pan over a cyclic map, with a hero whose colour only context can carry."""

# Shapes: B batch, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_adastate.worlds.pan_map import Texture, hsv_to_rgb, render_map
from lightning_adastate.worlds.pan_truth import PanEpisodes, PanTruth

SPEEDS = ("barely", "slowly", "steadily", "quickly")
"""Words for 1/4, 2/4, 3/4 and 4/4 of the largest speed."""

OPEN_FRAMES = 3
"""Frames at the start of an episode in which landmarks do not hide the hero."""


class PanWorld:
    """A camera drifts over a cyclic map behind a small square, the hero.

    The prompt names direction and speed, never the hero's colour, which is the episode's own: only
    frames that were seen can tell it. Shake and jitter make a single frame an unreliable witness.

    Args:
        height: Rows of pixels.
        width: Columns of pixels.
        num_columns: Length of the map; should exceed the width and twice the longest travel.
        texture: ``one_period`` is learnable in minutes, ``many_periods`` is not.
        texture_period: Columns after which the fast part of ``one_period`` repeats.
        max_speed: Largest speed in pixels per frame; the prompts know quarters of it.
        shake: Standard deviation of the camera's shake in pixels.
        hero_size: Side of the hero; a multiple of the model's patch keeps it easy to draw.
        hero_jitter: Standard deviation of the hero's colour from frame to frame.
        hidden_frames: The hero is away for this many frames at a time, again and again; more than the
            window makes memory pay. Zero never hides it.
        landmark_columns: Widths of the landmarks of the map, from west to east and then again. The hero hides
            while the camera's path takes it behind one, so a hide begins and ends on something one sees and
            only motion ends it. Empty is no landmark.
        landmark_spacing: Map columns from one landmark to the next.
        slowest: Slowest speed the prompts name, in quarters of the largest.
        hero_hues: Hues the hero's colour is drawn from, evenly spaced; zero is any hue.

    Raises:
        ValueError: If a size does not fit, or a deviation is negative.
    """

    def __init__(
        self,
        *,
        height: int = 8,
        width: int = 16,
        num_columns: int = 240,
        texture: Texture = "one_period",
        texture_period: int = 16,
        max_speed: float = 0.4,
        shake: float = 1.0,
        hero_size: int = 4,
        hero_jitter: float = 0.06,
        hidden_frames: int = 0,
        landmark_columns: Sequence[int] = (),
        landmark_spacing: int = 16,
        slowest: int = 1,
        hero_hues: int = 0,
    ) -> None:
        if hero_size < 1 or height < 2 * hero_size or width < 2 * hero_size:
            raise ValueError(
                f"`height` and `width` must be at least twice `hero_size` {hero_size}, "
                f"got {height} x {width}"
            )
        if texture_period < 4 or num_columns % texture_period or num_columns <= width:
            raise ValueError(
                f"`num_columns` must be a multiple of `texture_period` {texture_period} (4 or more) above the "
                f"width {width}, got {num_columns}"
            )
        if texture not in ("one_period", "many_periods"):
            raise ValueError(f"`texture` must be one_period or many_periods, got {texture!r}")
        if not max_speed > 0.0:
            raise ValueError(f"`max_speed` must be positive, got {max_speed}")
        for name, value in (("shake", shake), ("hero_jitter", hero_jitter)):
            if not value >= 0.0:
                raise ValueError(f"`{name}` must be 0 or more, got {value}")
        if hidden_frames < 0:
            raise ValueError(f"`hidden_frames` must be 0 or more, got {hidden_frames}")
        if landmark_columns:
            free = landmark_spacing - max(landmark_columns) - hero_size
            if min(landmark_columns) < 1 or free < OPEN_FRAMES * max_speed:
                raise ValueError(
                    f"`landmark_columns` must be 1 or more and, with a hero of {hero_size}, leave "
                    f"{OPEN_FRAMES * max_speed:g} of `landmark_spacing` {landmark_spacing} columns free, got "
                    f"{list(landmark_columns)}"
                )
            if num_columns % (landmark_spacing * len(landmark_columns)):
                raise ValueError(
                    f"`num_columns` must be a multiple of {landmark_spacing * len(landmark_columns)}, "
                    f"{len(landmark_columns)} landmarks {landmark_spacing} apart, got {num_columns}"
                )
            if hidden_frames:
                raise ValueError(
                    f"the hero hides behind landmarks or for `hidden_frames` {hidden_frames}, not both; "
                    "set one of them to 0"
                )
        if not 1 <= slowest <= len(SPEEDS):
            raise ValueError(f"`slowest` must be 1 to {len(SPEEDS)}, got {slowest}")
        if hero_hues < 0:
            raise ValueError(f"`hero_hues` must be 0 or more, got {hero_hues}")
        self.height = height
        self.width = width
        self.num_columns = num_columns
        self.texture: Texture = texture
        self.texture_period = texture_period
        self.max_speed = max_speed
        self.shake = shake
        self.hero_size = hero_size
        self.hero_jitter = hero_jitter
        self.hidden_frames = hidden_frames
        self.landmark_columns = tuple(landmark_columns)
        self.landmark_spacing = landmark_spacing
        self.slowest = slowest
        self.hero_hues = hero_hues

    def __repr__(self) -> str:
        """Name all arguments; rendered clips are filed under this."""
        return f"PanWorld({', '.join(f'{k}={v!r}' for k, v in sorted(vars(self).items()))})"

    # -- prompts --------------------------------------------------------------------------------

    @property
    def velocities(self) -> tuple[float, ...]:
        """List every speed a prompt can name, west (negative) to east."""
        east = [self.max_speed * i / len(SPEEDS) for i in range(self.slowest, len(SPEEDS) + 1)]
        return (*(-speed for speed in reversed(east)), *east)

    def prompt(self, velocity: float) -> str:
        """Return the prompt that names ``velocity``, in pixels per frame.

        Raises:
            ValueError: If no prompt does.
        """
        quarters = abs(velocity) / self.max_speed * len(SPEEDS)
        speed = round(quarters)
        if not self.slowest <= speed <= len(SPEEDS) or abs(quarters - speed) > 1e-6:
            raise ValueError(f"`velocity` must be one of {self.velocities}, got {velocity}")
        return f"drifting {SPEEDS[speed - 1]} {'east' if velocity > 0 else 'west'}"

    def velocity(self, prompt: str) -> float:
        """Return the velocity that ``prompt`` names, in pixels per frame.

        Raises:
            ValueError: If it names none.
        """
        prompts = {self.prompt(velocity): velocity for velocity in self.velocities}
        words = " ".join(prompt.lower().split())
        if words not in prompts:
            raise ValueError(f"PanWorld knows the prompts {sorted(prompts)}, got {prompt!r}")
        return prompts[words]

    # -- episodes -------------------------------------------------------------------------------

    def sample(self, indices: Sequence[int], num_frames: int, *, seed: int = 0) -> PanTruth:
        """Draw episodes; each is a pure function of (seed, index), and longer ones extend shorter.

        Raises:
            ValueError: If there is no frame or no episode.
        """
        if num_frames < 1 or not indices:
            raise ValueError(f"expected frames and episodes, got {num_frames} and {len(indices)}")
        rows = [self._draw(seed, index, num_frames) for index in indices]
        return PanTruth(
            *(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
        )

    def render(self, truth: PanTruth) -> Tensor:
        """Return the video ``[B, F, 3, H, W]`` in [0, 1] that shows ``truth``."""
        video = self.background(truth.position_BF)
        rows, columns = self.hero_rows, self.hero_columns
        hero = truth.shown_BF3[..., None, None].to(video.dtype)
        there = truth.visible_BF[..., None, None, None]
        video[..., rows, columns] = torch.where(there, hero, video[..., rows, columns])
        return video

    def background(self, position: Tensor) -> Tensor:
        """Return the map without the hero seen from ``position`` ``[...]``, ``[..., 3, H, W]``."""
        return render_map(
            position,
            height=self.height,
            width=self.width,
            num_columns=self.num_columns,
            texture=self.texture,
            texture_period=self.texture_period,
            landmark_columns=self.landmark_columns,
            landmark_spacing=self.landmark_spacing,
        )

    def episodes(self, num: int, num_frames: int, *, seed: int = 0) -> PanEpisodes:
        """Return the first ``num`` episodes of ``seed``, rendered, with prompts and truth."""
        truth = self.sample(range(num), num_frames, seed=seed)
        prompts = [self.prompt(velocity) for velocity in truth.velocity_B.tolist()]
        return PanEpisodes(self.render(truth), prompts, truth)

    @property
    def hides(self) -> bool:
        """Whether the hero is away at times."""
        return bool(self.hidden_frames or self.landmark_columns)

    def longest_hide(self, velocity_B: Tensor) -> Tensor:
        """Return the most frames the hero is away at a time, at speeds in pixels per frame; 0 is never."""
        if not self.landmark_columns:
            return torch.full_like(velocity_B, float(self.hidden_frames))
        return (max(self.landmark_columns) + self.hero_size) / velocity_B.abs() + 1.0

    @property
    def hero_rows(self) -> slice:
        """Rows the hero covers: below the middle, on its own grid."""
        top = self.height // 2 // self.hero_size * self.hero_size
        return slice(top, top + self.hero_size)

    @property
    def hero_columns(self) -> slice:
        """Columns the hero covers: a quarter from the left, on its own grid."""
        left = max(1, self.width // 4 // self.hero_size) * self.hero_size
        return slice(left, left + self.hero_size)

    def _draw(self, seed: int, index: int, num_frames: int) -> tuple[np.ndarray, ...]:
        """Draw one episode, one stream of numbers for each quantity so that it can be extended."""
        fixed, shake, jitter, hiding = (np.random.default_rng([seed, index, i]) for i in range(4))
        velocity = self.velocities[int(fixed.integers(len(self.velocities)))]
        start = self._in_the_open(fixed.uniform(0.0, self.num_columns), velocity)
        turn = fixed.uniform()
        if self.hero_hues:
            turn = int(turn * self.hero_hues) / self.hero_hues
        hue = torch.tensor(turn, dtype=torch.float64)
        color = hsv_to_rgb(hue, hue.new_tensor(0.9), hue.new_tensor(0.95)).numpy()
        noise = self.shake * shake.standard_normal(num_frames)
        shown = color + self.hero_jitter * jitter.standard_normal((num_frames, 3))
        path = start + velocity * np.arange(num_frames)
        return (
            np.asarray(start),
            np.asarray(velocity),
            path + noise,
            color,
            shown.clip(0.0, 1.0),
            self._visible(hiding, path),
        )

    def _in_the_open(self, start: float, velocity: float) -> float:
        """Move a start so that no landmark hides the hero in the first ``OPEN_FRAMES`` frames."""
        if not self.landmark_columns:
            return start
        block, share = divmod(start / self.landmark_spacing, 1.0)
        way = velocity * OPEN_FRAMES
        first = self.landmark_columns[int(block) % len(self.landmark_columns)] + max(0.0, -way)
        last = self.landmark_spacing - self.hero_size - max(0.0, way)
        left = first + share * (last - first)
        return float(block * self.landmark_spacing + left - self.hero_columns.start)

    def _visible(self, generator: np.random.Generator, path: np.ndarray) -> np.ndarray:
        """Say in which frames the hero is there, given the camera's path without its shake."""
        if self.landmark_columns:
            block, left = np.divmod(path + self.hero_columns.start, self.landmark_spacing)
            widths = np.asarray(self.landmark_columns)[
                block.astype(int) % len(self.landmark_columns)
            ]
            return np.asarray(
                (left >= widths) & (left + self.hero_size <= self.landmark_spacing), dtype=bool
            )
        num_frames = len(path)
        if not self.hidden_frames:
            return np.ones(num_frames, dtype=bool)
        # Visible runs of 3 to `hidden_frames` frames alternate with hidden runs of just as many.
        runs: list[bool] = []
        while len(runs) < num_frames:
            shown = int(generator.integers(3, max(4, self.hidden_frames + 1)))
            runs += [True] * shown + [False] * self.hidden_frames
        return np.asarray(runs[:num_frames])
