"""How long a test will still take, what it can tell at best, and what would shorten it.

Everything follows from the standard error so far: at the same traffic it falls with the square
root of the time.
"""

import math
from dataclasses import dataclass, replace

from cl.records import ArmScore, Comparison
from cl.rules.evidence import multiplier
from cl.rules.verdicts import base
from cl.settings import ExperimentLimits

_POWER = 0.8416  # standard normal quantile of 80 %
_STEPS = 200


@dataclass(frozen=True)
class Plan:
    """`hours_left` until a verdict if the difference stays as it is; None: none before the end.

    `detectable` is the smallest lift that is promoted in four tests out of five by the end.
    """

    hours_left: float | None
    detectable: float
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Need:
    """Something a test must have before it may be decided."""

    name: str
    have: float
    wanted: float

    @property
    def share(self) -> float:
        return min(1.0, self.have / self.wanted)


def needs(seen: Comparison, limits: ExperimentLimits) -> tuple[Need, ...]:
    """What it takes, counted on the smaller side."""
    arms = (seen.champion, seen.challenger)
    found = [
        Need("hours", seen.hours, limits.min_test_hours),
        Need("answers", min(a.requests for a in arms), limits.min_test_samples),
    ]
    if limits.decision_rule == "evidence":
        fewest = min(a.conversations for a in arms)
        found.append(Need("conversations", fewest, limits.min_test_conversations))
    return tuple(found)


def hours_until_ready(seen: Comparison, limits: ExperimentLimits) -> float | None:
    """Until all needs are met, at the traffic so far; None while that cannot be said."""
    left = [limits.min_test_hours - seen.hours]
    for need in needs(seen, limits)[1:]:
        if need.have < need.wanted:
            if not need.have or not seen.hours:
                return None
            left.append(seen.hours * (need.wanted - need.have) / need.have)
    return max(0.0, *left)


def plan(seen: Comparison, limits: ExperimentLimits) -> Plan | None:
    """None while there is too little to plan with."""
    first, second = seen.champion, seen.challenger
    if not seen.se or seen.lift is None or seen.hours <= 0:
        return None
    until = _hours_until(seen, seen.se, limits)
    at_end = seen.se * math.sqrt(seen.hours / max(limits.max_test_hours, seen.hours))
    needed = (multiplier(at_end, limits.promote_alpha, limits.evidence_sigma) + _POWER) * at_end
    detectable = max(limits.min_lift, needed / base(first))
    left = None if until is None else max(0.0, until - seen.hours)
    return Plan(left, detectable, _advice(seen, until, first, second, limits))


def _advice(
    seen: Comparison,
    until: float | None,
    first: ArmScore,
    second: ArmScore,
    limits: ExperimentLimits,
) -> tuple[str, ...]:
    """What would bring the verdict nearer by a tenth or more."""
    assert first.variance is not None
    assert second.variance is not None
    share = limits.challenger_share
    found = []
    even = first.variance * (1 - share) / 0.5 + second.variance * share / 0.5
    scaled = replace(seen, challenger=replace(second, requests=int(second.requests * 0.5 / share)))
    thumbs = (first.thumbs_variance or 0.0) + (second.thumbs_variance or 0.0)
    rated = seen.se**2 - thumbs / 2 if seen.se else 0.0
    for text, case, variance in (
        ("half of the conversations for the challenger", scaled, even),
        ("twice as many thumbs", seen, rated),
    ):
        sooner = _hours_until(case, math.sqrt(max(variance, 1e-12)), limits)
        if sooner is not None and (until is None or sooner < 0.9 * until):
            found.append(f"{text}: {days(max(0.0, sooner - seen.hours))}")
    return tuple(found)


def _hours_until(seen: Comparison, se: float, limits: ExperimentLimits) -> float | None:
    """The age of the test at which it is decided, or None if it never is before its end."""
    assert seen.lift is not None
    arms = (seen.champion, seen.challenger)
    difference, bar = seen.lift * base(seen.champion), limits.min_lift * base(seen.champion)
    ready = max(
        limits.min_test_hours,
        *(seen.hours * limits.min_test_samples / a.requests for a in arms),
        *(seen.hours * limits.min_test_conversations / a.conversations for a in arms),
        seen.hours,
    )
    for step in range(_STEPS + 1):
        at = ready + (limits.max_test_hours - ready) * step / _STEPS
        if at < ready:
            return None
        then = se * math.sqrt(seen.hours / at)
        promote = multiplier(then, limits.promote_alpha, limits.evidence_sigma) * then
        retire = multiplier(then, limits.retire_alpha, limits.evidence_sigma) * then
        if (difference >= bar and difference > promote) or difference + retire < bar:
            return at
    return None


def days(hours: float) -> str:
    """Hours, or days from two days on."""
    if hours < 1:
        return "at once"
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.1f} days"
