"""An A/A test made of past traffic: how often would the rule promote a version that is the same?

Whole conversations are drawn anew with replacement, start at random times at the rate they came
in, and are split as a test would split them. Both sides are the same model, so every promotion is
a false one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cl.records import Comparison
from cl.rules.comparison import Observations, compare
from cl.rules.evidence import multiplier
from cl.rules.verdicts import base, is_harmful
from cl.settings import ExperimentLimits

LIFTS = (0.05, 0.10, 0.20, 0.50)
_POWER = 0.8416
_NAMES = ("champion", "challenger")


@dataclass(frozen=True)
class SelfTest:
    """Shares of the resampled tests; hours until a lift is promoted, None: not before the end."""

    tests: int
    conversations: int  # that were drawn from
    requests_per_hour: float
    thumb_rate: float
    promoted: float
    aborted: float
    retired: float
    detectable: float | None  # smallest lift promoted in four tests out of five by the end
    hours_needed: dict[str, float | None]


def self_test(
    seen: Observations,
    hours: float,
    limits: ExperimentLimits,
    dice: Generator,
    *,
    tests: int = 200,
    look_every: float = 6.0,
    tell: Callable[[int], None] = lambda done: None,
) -> SelfTest:
    """`seen` is the traffic of the past `hours`. Looks start when a test may first be decided."""
    rows = _by_conversation(seen)
    ends = {"promote": 0, "abort": 0, "retire": 0, "continue": 0}
    last: list[Comparison] = []
    for number in range(tests):
        end, final = _one_test(seen, rows, hours, limits, dice, look_every)
        ends[end] += 1
        last.append(final)
        tell(number + 1)
    return SelfTest(
        tests=tests,
        conversations=len(rows),
        requests_per_hour=len(seen) / hours,
        thumb_rate=float(np.mean(seen.thumb != 0)),
        promoted=ends["promote"] / tests,
        aborted=ends["abort"] / tests,
        retired=ends["retire"] / tests,
        detectable=_detectable(last, limits),
        hours_needed={f"{lift:.0%}": _hours_needed(last, lift, limits) for lift in LIFTS},
    )


def _by_conversation(seen: Observations) -> list[NDArray[Any]]:
    order = np.argsort(seen.conversation, kind="stable")
    cuts = np.flatnonzero(np.diff(seen.conversation[order])) + 1
    return np.split(order, cuts)


def _one_test(
    seen: Observations,
    rows: list[NDArray[Any]],
    hours: float,
    limits: ExperimentLimits,
    dice: Generator,
    look_every: float,
) -> tuple[str, Comparison]:
    """How one resampled test ends, and how it looks at its latest hour whatever its end."""
    length = limits.max_test_hours
    count = max(2, int(dice.poisson(len(rows) / hours * length)))
    starts = np.sort(dice.random(count)) * length
    drawn = dice.integers(0, len(rows), count)
    is_new = dice.random(count) < limits.challenger_share
    arms = [_arm(seen, rows, drawn[side], starts[side]) for side in (~is_new, is_new)]
    final = _look(arms, length - 1e-6, limits)
    for at in np.arange(look_every, length, look_every):
        found = _look(arms, float(at), limits)
        if found.decision != "continue":
            return ("abort" if is_harmful(found) else found.decision), final
    return "continue", final


def _arm(
    seen: Observations, rows: list[NDArray[Any]], drawn: NDArray[Any], starts: NDArray[Any]
) -> tuple[Observations, NDArray[Any]]:
    """The drawn conversations as new ones, in order of their starts, and each request's time."""
    if not len(drawn):
        nothing = np.empty(0, np.int64)
        return _take(seen, nothing, nothing), np.empty(0)
    sizes = np.array([len(rows[i]) for i in drawn])
    which = np.concatenate([rows[i] for i in drawn])
    numbers = np.repeat(np.arange(len(drawn)), sizes)
    return _take(seen, which, numbers), np.repeat(starts, sizes)


def _take(seen: Observations, which: NDArray[Any], numbers: NDArray[Any]) -> Observations:
    return Observations(
        seen.quality[which], seen.latency_s[which], seen.thumb[which], seen.error[which], numbers
    )


def _look(
    arms: list[tuple[Observations, NDArray[Any]]], at: float, limits: ExperimentLimits
) -> Comparison:
    sides = []
    for observed, times in arms:
        cut = int(np.searchsorted(times, at))
        fields = ("quality", "latency_s", "thumb", "error", "conversation")
        sides.append(Observations(*(getattr(observed, name)[:cut] for name in fields)))
    return compare(0, _NAMES, sides[0], sides[1], at, limits)


def _typical(last: Sequence[Comparison]) -> tuple[float, float] | None:
    """The standard error at the end of a test, and what a lift is a share of; medians."""
    errors = [seen.se for seen in last if seen.se]
    if not errors:
        return None
    return float(np.median(errors)), float(np.median([base(seen.champion) for seen in last]))


def _promotable(se: float, limits: ExperimentLimits) -> float:
    """The true difference that is promoted in four looks out of five at this standard error."""
    return (multiplier(se, limits.promote_alpha, limits.evidence_sigma) + _POWER) * se


def _detectable(last: Sequence[Comparison], limits: ExperimentLimits) -> float | None:
    typical = _typical(last)
    if typical is None:
        return None
    se, scale = typical
    return max(limits.min_lift, _promotable(se, limits) / scale)


def _hours_needed(
    last: Sequence[Comparison], lift: float, limits: ExperimentLimits
) -> float | None:
    typical = _typical(last)
    if typical is None or lift < limits.min_lift:
        return None
    se, scale = typical
    ages = np.linspace(
        min(limits.min_test_hours, limits.max_test_hours), limits.max_test_hours, 200
    )
    for age in ages:
        if _promotable(se * math.sqrt(limits.max_test_hours / age), limits) <= lift * scale:
            return float(age)
    return None
