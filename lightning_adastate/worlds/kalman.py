"""KalmanWorld: why anchors freeze, drift or hold, in closed form (numpy, milliseconds)."""

# Every quantity is a linear function of independent sources: the velocity and one noise per frame. It is
# a row of coefficients over them, so second moments, least squares and roll-outs are exact: nothing is
# sampled. Column 0 is the velocity.

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

Policy = Literal["none", "static", "ema", "replacement", "adaptive"]
Rows = NDArray[np.float64]

GIVEN = 4
CHUNK = 3


class KalmanResult(NamedTuple):
    """``gain``: late displacement as a share of the true one. ``drift``: spread of the late place, pixels."""

    gain: float
    drift: float


class Predictor(NamedTuple):
    """Least-squares weights ``[features, targets]`` and the covariance of what they leave over."""

    weights: Rows
    residual: Rows


class KalmanWorld:
    """A place that moves with a known velocity, seen through noise, and models that continue it.

    The place in frame t is ``s + v t``, each frame shows it plus noise. A model predicts chunks of three
    frames by least squares from its anchor, its window and v; it learns inside ``horizon`` true frames
    and then rolls out on its own samples, after four true frames. Without anchor it has a window of
    four, otherwise the anchor and a window of three. ``ema`` and ``replacement`` put another anchor into
    the model that learned with the first frame. ``adaptive`` carries its own estimate of the place from
    chunk to chunk, learned by least squares too; beyond ``horizon`` it repeats its last rule.

    Args:
        noise: Standard deviation of a frame, in pixels.
        slowest: Smallest speed in pixels per frame; speeds are uniform and of either sign.
        fastest: Largest speed.
        horizon: Frames of the clips it learns from.
        decay: Weight of the old anchor for ``ema``.
        frames_back: Age of the newest frame ``replacement`` shows, counted from the live chunk.

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
        frames_back: int = 7,
    ) -> None:
        if not noise > 0.0:
            raise ValueError(f"`noise` must be positive, got {noise}")
        if not 0.0 <= slowest <= fastest or not fastest > 0.0:
            raise ValueError(f"expected 0 <= slowest <= fastest, got {slowest} and {fastest}")
        if horizon < GIVEN + 2 * CHUNK:
            raise ValueError(f"`horizon` must be {GIVEN + 2 * CHUNK} or more, got {horizon}")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}")
        if frames_back < GIVEN:
            raise ValueError(f"`frames_back` must be {GIVEN} or more, got {frames_back}")
        self.noise = noise
        self.horizon = horizon
        self.decay = decay
        self.frames_back = frames_back
        self.velocity_power = (slowest**2 + slowest * fastest + fastest**2) / 3.0

    def run(self, policy: Policy, num_frames: int) -> KalmanResult:
        """Roll a policy out; *late* is the last third, 14 frames or more.

        Raises:
            ValueError: If the policy is unknown, or there are fewer frames than late ones and given.
        """
        if policy not in get_args(Policy):
            raise ValueError(f"`policy` must be one of {get_args(Policy)}, got {policy!r}")
        if num_frames < 14 + GIVEN:
            raise ValueError(f"`num_frames` must be {14 + GIVEN} or more, got {num_frames}")
        places = self._roll_out(policy, num_frames)
        time = np.arange(num_frames)[-max(num_frames // 3, 14) :]
        late = places[time]
        gain = late[:, 0] @ time / (time @ time)
        return KalmanResult(float(gain), float(np.sqrt((late[:, 1:] ** 2).sum(1).mean())))

    def anchor_weight(self) -> float:
        """Return how much the first frame counts in a prediction of the static model."""
        return float(self._learn("static").weights[0].mean())

    # -- learning -------------------------------------------------------------------------------

    def _true_frames(self) -> Rows:
        frames = np.zeros((self.horizon, 1 + self.horizon))
        frames[:, 0] = np.arange(self.horizon)
        frames[np.arange(self.horizon), 1 + np.arange(self.horizon)] = self.noise
        return frames

    def _fit(self, inputs: list[Rows], targets: list[Rows]) -> Predictor:
        """Regress on all cases at once, from exact second moments."""
        power = np.ones(inputs[0].shape[1])
        power[0] = self.velocity_power
        cases = list(zip(inputs, targets, strict=True))
        moments = np.sum([(x * power) @ x.T for x in inputs], axis=0)
        weights = np.linalg.solve(moments, np.sum([(x * power) @ y.T for x, y in cases], axis=0))
        left = [y - weights.T @ x for x, y in cases]
        return Predictor(weights, np.mean([(r * power) @ r.T for r in left], axis=0))

    def _learn(self, policy: Policy) -> Predictor:
        """Fit one rule to every place of the clip, with the first frame as anchor if any."""
        frames = self._true_frames()
        starts = range(GIVEN, self.horizon - CHUNK + 1)
        anchor = None if policy == "none" else frames[0]
        return self._fit(
            [features(frames, start, anchor) for start in starts],
            [frames[start : start + CHUNK] - frames[start - 1] for start in starts],
        )

    def _learn_adaptive(self) -> list[tuple[Predictor, Predictor]]:
        """Fit one rule per chunk of the clip: for the content, and for the state after it."""
        frames = self._true_frames()
        state = frames[0]
        rules = []
        for start in range(GIVEN, self.horizon - CHUNK + 1, CHUNK):
            seen = features(frames, start, state)
            last = frames[start - 1]
            place = np.zeros_like(last)
            place[0] = start - 1
            content = self._fit([seen], [frames[start : start + CHUNK] - last])
            level = self._fit([seen], [(place - last)[None]])
            rules.append((content, level))
            state = last + (level.weights.T @ seen)[0]
        return rules

    # -- rolling out ----------------------------------------------------------------------------

    def _roll_out(self, policy: Policy, num_frames: int) -> Rows:
        """Return the expected place of each frame given those before, ``[frames, sources]``."""
        frames = np.zeros((num_frames + CHUNK, 1 + num_frames + CHUNK))
        frames[:GIVEN, 0] = np.arange(GIVEN)
        frames[np.arange(GIVEN), 1 + np.arange(GIVEN)] = self.noise
        places = frames.copy()
        rules = self._learn_adaptive() if policy == "adaptive" else []
        content = self._learn(policy)
        anchor = None if policy == "none" else frames[0]
        for index, start in enumerate(range(GIVEN, num_frames, CHUNK)):
            last = frames[start - 1]
            if policy == "replacement":
                anchor = frames[max(0, start - self.frames_back)]
            seen = features(frames, start, anchor)
            if policy == "adaptive":
                content, level = rules[min(index, len(rules) - 1)]
                anchor = last + (level.weights.T @ seen)[0]
            new = slice(start, start + CHUNK)
            places[new] = last + content.weights.T @ seen
            frames[new] = places[new]
            frames[new, 1 + start : 1 + start + CHUNK] += np.linalg.cholesky(content.residual)
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
