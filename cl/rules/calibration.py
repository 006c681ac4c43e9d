"""How good probabilities are, and how to make them right: pure statistics over scores and labels.

Scores are any numbers, `up` says of each whether the person gave a thumb up. Intervals come from
drawing whole groups with replacement (Efron 1979, cluster bootstrap): answers of one conversation
are not independent of each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

_BINS = 10
_DRAWS = 400
_OF_STEPS = 0.75  # the rest is the sigmoid, which tells scores on one step apart
_BOUNDS = (0.01, 0.99)  # of a step; nothing is certain
_FEW = 1000  # labels; below it a step function follows chance (Niculescu-Mizil, Caruana 2005)


@dataclass(frozen=True)
class Estimate:
    """A figure and its 90 % interval."""

    value: float
    low: float
    high: float


def auc(scores: Numbers, up: Flags, weights: Numbers | None = None) -> float:
    """Probability that an answer with a thumb up scores above one without; a tie counts half."""
    weights = np.ones(len(up)) if weights is None else weights
    place = np.unique(scores, return_inverse=True)[1]
    size = int(place.max(initial=-1)) + 1
    ups = np.bincount(place, weights * up, size)
    downs = np.bincount(place, weights * ~up, size)
    pairs = ups.sum() * downs.sum()
    below = np.cumsum(downs) - downs / 2
    return float(ups @ below / pairs) if pairs else float("nan")


def brier(chances: Numbers, up: Flags, weights: Numbers | None = None) -> float:
    """Mean squared distance of the probabilities from what happened (Brier 1950)."""
    return float(np.average((chances - up) ** 2, weights=weights))


def calibration_error(chances: Numbers, up: Flags, weights: Numbers | None = None) -> float:
    """Expected calibration error over ten bins of equal width (Guo et al. 2017)."""
    weights = np.ones(len(up)) if weights is None else weights
    bins = np.minimum((chances * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights * (chances - up), _BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def interval(
    figure: Callable[[Numbers, Flags, Numbers], float],
    scores: Numbers,
    up: Flags,
    groups: Sequence[str],
    seed: int,
) -> Estimate:
    """The figure over all rows, and where it lies in 90 % of redrawn sets of groups."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    dice = np.random.default_rng(seed)
    drawn = dice.multinomial(len(names), np.full(len(names), 1 / len(names)), _DRAWS)
    values = [figure(scores, up, counts[member].astype(float)) for counts in drawn]
    low, high = np.nanquantile(values, [0.05, 0.95])
    return Estimate(figure(scores, up, np.ones(len(up))), float(low), float(high))


@dataclass(frozen=True, eq=False)
class Calibration:
    """From a score to a probability: a sigmoid and, with many labels, mostly steps.

    The sigmoid keeps the order of all scores, the steps bend it where it does not fit.
    """

    slope: float
    offset: float
    at: Numbers
    chances: Numbers  # at these scores; none: the sigmoid alone

    def __call__(self, scores: Numbers) -> Numbers:
        smooth = sigmoid(self.slope * scores + self.offset)
        if not len(self.at):
            return smooth
        steps = np.interp(scores, self.at, self.chances)
        mean: Numbers = _OF_STEPS * steps + (1 - _OF_STEPS) * smooth
        return mean


def calibrate(scores: Numbers, up: Flags) -> Calibration:
    """Fitted on scores of rows that the scoring model was not trained on."""
    slope, offset = _platt(scores, up)
    if len(up) < _FEW:
        return Calibration(slope, offset, np.empty(0), np.empty(0))
    return Calibration(slope, offset, *_steps(scores, up))


def _platt(scores: Numbers, up: Flags) -> tuple[float, float]:
    """Platt 1999 with the smoothed targets of Lin, Lin, Weng 2007; Newton's method."""
    ups, downs = int(up.sum()), int((~up).sum())
    target = np.where(up, (ups + 1) / (ups + 2), 1 / (downs + 2))
    spread = float(scores.std()) or 1.0
    inputs = np.stack([scores / spread, np.ones(len(scores))], 1)
    found = np.array([0.0, np.log((ups + 1) / (downs + 1))])
    weak = np.diag([1e-3, 1e-6])  # keeps the steps finite where the classes come apart
    for _ in range(50):
        chance = sigmoid(inputs @ found)
        slope = inputs.T @ (chance - target) + weak @ found
        bend = inputs.T @ (inputs * (chance * (1 - chance))[:, None]) + weak
        step = np.linalg.solve(bend, slope)
        found = found - step * min(1.0, 2.0 / (float(np.abs(step).max()) + 1e-12))
    # A score that orders the wrong way round is worth nothing, not the opposite.
    return max(0.0, float(found[0])) / spread, float(found[1])


def _steps(scores: Numbers, up: Flags) -> tuple[Numbers, Numbers]:
    """Isotonic regression by pooling adjacent violators (Ayer et al. 1955), as points to join."""
    order = np.argsort(scores, kind="stable")
    blocks: list[tuple[float, float, float]] = []  # rows, ups, sum of scores
    for score, one in zip(scores[order].tolist(), up[order].tolist(), strict=True):
        blocks.append((1.0, float(one), score))
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][0] >= blocks[-1][1] * blocks[-2][0]:
            last, before = blocks.pop(), blocks.pop()
            blocks.append((last[0] + before[0], last[1] + before[1], last[2] + before[2]))
    table = np.asarray(blocks)
    # Not smoothed block by block: small blocks beside large ones would change their order.
    return table[:, 2] / table[:, 0], np.clip(table[:, 1] / table[:, 0], *_BOUNDS)


def sigmoid(x: Numbers) -> Numbers:
    chance: Numbers = 1 / (1 + np.exp(-np.clip(x, -40, 40)))
    return chance
