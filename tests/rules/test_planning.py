"""How long a test will still take, from what it has seen so far."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cl.records import Comparison
from cl.rules.comparison import Observations, compare
from cl.rules.planning import days, hours_until_ready, needs, plan
from cl.settings import ExperimentLimits

LIMITS = ExperimentLimits()


def arm(count: int, quality: float, seed: int, rated: float = 0.3) -> Observations:
    dice = np.random.default_rng(seed)
    thumbs = np.where(dice.random(count) < rated, np.where(dice.random(count) < 0.6, 1, -1), 0)
    return Observations(
        quality=np.clip(quality + 0.2 * dice.standard_normal(count), 0, 1),
        latency_s=dice.lognormal(0.5, 0.5, count),
        thumb=thumbs,
        error=np.zeros(count, bool),
        conversation=np.arange(count) // 3,
    )


def seen(gain: float, hours: float = 48.0, **changes: Any) -> Comparison:
    limits = replace(LIMITS, **changes)
    share = limits.challenger_share
    sides = arm(int(1000 * (1 - share)), 0.6, 1), arm(int(1000 * share), 0.6 + gain, 2)
    return compare(1, ("v1", "v2"), *sides, hours, limits)


def test_there_is_no_plan_without_evidence() -> None:
    nothing = arm(0, 0.5, 1)
    assert plan(compare(1, ("v1", "v2"), nothing, nothing, 5.0, LIMITS), LIMITS) is None
    assert plan(seen(0.1, hours=0.0), LIMITS) is None


def test_a_large_gain_is_decided_as_soon_as_it_may_be() -> None:
    found = plan(seen(0.38, hours=24.0), LIMITS)
    assert found is not None
    assert found.hours_left == pytest.approx(24.0)
    assert not found.advice  # nothing would bring it nearer


def test_a_verdict_that_is_due_takes_no_more_time() -> None:
    found = plan(seen(0.38, hours=50.0), LIMITS)
    assert found is not None
    assert found.hours_left == 0.0


def test_a_small_gain_takes_longer_and_more_traffic_helps() -> None:
    small, large = plan(seen(0.15), LIMITS), plan(seen(0.2), LIMITS)
    assert small is not None
    assert large is not None
    assert large.hours_left is not None
    assert small.hours_left is None or small.hours_left > large.hours_left
    assert any("half of the conversations" in text for text in small.advice)


def test_more_thumbs_are_advised_where_they_matter() -> None:
    limits = replace(LIMITS, challenger_share=0.5)
    sides = arm(500, 0.6, 1, rated=0.05), arm(500, 0.66, 2, rated=0.05)
    found = plan(compare(1, ("v1", "v2"), *sides, 48.0, limits), limits)
    assert found is not None
    assert any("thumbs" in text for text in found.advice)


def test_the_smallest_gain_found_shrinks_with_the_length_of_a_test() -> None:
    short, long = (
        plan(seen(0.1), replace(LIMITS, max_test_hours=hours)) for hours in (100.0, 1000.0)
    )
    assert short is not None
    assert long is not None
    assert 0.05 <= long.detectable < short.detectable


def test_times_in_words() -> None:
    assert [days(hours) for hours in (0.4, 47.0, 60.0)] == ["at once", "47 hours", "2.5 days"]


def test_what_a_test_needs_is_counted_on_the_smaller_side() -> None:
    found = needs(seen(0.1, hours=12.0), LIMITS)
    assert [(n.name, n.have, n.wanted) for n in found] == [
        ("hours", 12.0, 48.0),
        ("answers", 100, 100),
        ("conversations", 34, 30),
    ]
    assert [n.share for n in found] == [0.25, 1.0, 1.0]
    assert len(needs(seen(0.1), replace(LIMITS, decision_rule="plain"))) == 2


def test_the_time_until_a_test_may_be_decided_follows_from_its_traffic() -> None:
    assert hours_until_ready(seen(0.1, hours=12.0), LIMITS) == 36.0
    assert hours_until_ready(seen(0.1, hours=60.0), LIMITS) == 0.0
    slow = replace(LIMITS, min_test_samples=400)
    assert hours_until_ready(seen(0.1, hours=60.0), slow) == pytest.approx(180.0)
    nothing = compare(1, ("v1", "v2"), arm(9, 0.5, 1), arm(0, 0.5, 1), 5.0, LIMITS)
    assert hours_until_ready(nothing, LIMITS) is None
