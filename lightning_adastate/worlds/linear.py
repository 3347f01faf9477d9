"""LinearWorld: why a static anchor freezes and no anchor drifts, in closed form (numpy, milliseconds)."""

# Every quantity is a linear function of independent sources: the velocity and one noise per frame. It is
# a row of coefficients over them, so second moments, least squares and roll-outs are exact: nothing is
# sampled. Column 0 is the velocity.

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

Policy = Literal["none", "static", "ema"]
Rows = NDArray[np.float64]

GIVEN = 4
CHUNK = 3


class LinearResult(NamedTuple):
    """What a roll-out comes to over its last third, 14 frames or more.

    Args:
        gain: Expected displacement as a share of the true one: 1 is right, 0 is frozen.
        drift: Standard deviation of the place around its expectation, in pixels.
    """

    gain: float
    drift: float


class Predictor(NamedTuple):
    """Least-squares weights ``[features, targets]`` and the covariance of the residual."""

    weights: Rows
    residual: Rows


class LinearWorld:
    """A place that moves with a known velocity, seen through noise, and linear models that continue it.

    In frame t the place is ``v t``; a frame shows it plus noise. A model predicts chunks of three frames by
    least squares from its anchor, its window and v. It is fitted inside ``horizon`` true frames and then rolled
    out on its own samples, after four true frames. ``none`` has a window of four frames; ``static`` has the
    first frame and a window of three. ``ema`` is the static model with another anchor put in, a running average
    of the evicted frames: nothing is fitted for it. There is no trained state here, so no AdaState.

    Args:
        noise: Standard deviation of a frame, in pixels.
        slowest: Smallest speed in pixels per frame; speeds are uniform and of either sign.
        fastest: Largest speed.
        horizon: Frames of the clips a model is fitted on.
        decay: Weight of the old anchor for ``ema``.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        noise: float = 2.0,
        *,
        slowest: float = 0.1,
        fastest: float = 0.4,
        horizon: int = 21,
        decay: float = 0.9,
    ) -> None:
        if not noise > 0.0:
            raise ValueError(f"`noise` must be positive, got {noise}")
        if not 0.0 <= slowest <= fastest or not fastest > 0.0:
            raise ValueError(f"expected 0 <= slowest <= fastest, got {slowest} and {fastest}")
        if horizon < GIVEN + 2 * CHUNK:
            raise ValueError(f"`horizon` must be {GIVEN + 2 * CHUNK} or more, got {horizon}")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}")
        self.noise = noise
        self.horizon = horizon
        self.decay = decay
        self.velocity_power = (slowest**2 + slowest * fastest + fastest**2) / 3.0

    def run(self, policy: Policy, num_frames: int) -> LinearResult:
        """Return gain and drift of a roll-out of ``num_frames``.

        Raises:
            ValueError: If the policy is unknown, or the roll-out is shorter than what it is measured on.
        """
        if policy not in get_args(Policy):
            raise ValueError(f"`policy` must be one of {get_args(Policy)}, got {policy!r}")
        if num_frames < 14 + GIVEN:
            raise ValueError(f"`num_frames` must be {14 + GIVEN} or more, got {num_frames}")
        places = self._roll_out(policy, num_frames)
        time = np.arange(num_frames)[-max(num_frames // 3, 14) :]
        late = places[time]
        gain = late[:, 0] @ time / (time @ time)
        return LinearResult(float(gain), float(np.sqrt((late[:, 1:] ** 2).sum(1).mean())))

    def anchor_weight(self) -> float:
        """Return how much the first frame counts in a prediction of the static model, 0 to 1."""
        return float(self.fit("static").weights[0].mean())

    def fit(self, policy: Policy) -> Predictor:
        """Fit one rule to every place of the true clips, from exact second moments.

        Args:
            policy: Whether the first frame is among the features; ``none`` is without.
        """
        frames = np.zeros((self.horizon, 1 + self.horizon))
        frames[:, 0] = np.arange(self.horizon)
        frames[np.arange(self.horizon), 1 + np.arange(self.horizon)] = self.noise
        anchor = None if policy == "none" else frames[0]
        starts = range(GIVEN, self.horizon - CHUNK + 1)
        inputs = [features(frames, start, anchor) for start in starts]
        targets = [frames[start : start + CHUNK] - frames[start - 1] for start in starts]
        power = np.ones(frames.shape[1])
        power[0] = self.velocity_power
        cases = list(zip(inputs, targets, strict=True))
        moments = np.sum([(x * power) @ x.T for x in inputs], axis=0)
        weights = np.linalg.solve(moments, np.sum([(x * power) @ y.T for x, y in cases], axis=0))
        left = [y - weights.T @ x for x, y in cases]
        return Predictor(weights, np.mean([(r * power) @ r.T for r in left], axis=0))

    def _roll_out(self, policy: Policy, num_frames: int) -> Rows:
        """Return the expected place of each frame given those before, ``[frames, sources]``."""
        frames = np.zeros((num_frames + CHUNK, 1 + num_frames + CHUNK))
        frames[:GIVEN, 0] = np.arange(GIVEN)
        frames[np.arange(GIVEN), 1 + np.arange(GIVEN)] = self.noise
        places = frames.copy()
        rule = self.fit(policy)
        spread = np.linalg.cholesky(rule.residual)
        anchor = None if policy == "none" else frames[0]
        for start in range(GIVEN, num_frames, CHUNK):
            last = frames[start - 1]
            new = slice(start, start + CHUNK)
            places[new] = last + rule.weights.T @ features(frames, start, anchor)
            frames[new] = places[new]
            frames[new, 1 + start : 1 + start + CHUNK] += spread
            if policy == "ema":
                assert anchor is not None
                for evicted in frames[start - CHUNK : start]:
                    anchor = self.decay * anchor + (1.0 - self.decay) * evicted
        return places[:num_frames]


def features(frames: Rows, start: int, anchor: Rows | None) -> Rows:
    """Return what a model sees before frame ``start``: anchor, window, velocity, relative to its last frame."""
    last = frames[start - 1]
    first = start - GIVEN if anchor is None else start - CHUNK
    rows = [] if anchor is None else [anchor - last]
    rows += [frame - last for frame in frames[first : start - 1]]
    return np.stack([*rows, np.eye(1, frames.shape[1])[0]])
