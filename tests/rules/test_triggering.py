"""When a training starts: each trigger at its threshold, their order, and the rest after a run."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cl.records import Gauge
from cl.rules.triggering import Readings, decide
from cl.settings import TriggerLimits

NOW = datetime(2026, 3, 29, 12, tzinfo=UTC)
# A quarter is exact in binary, so "exactly at the threshold" means what it says.
LIMITS = TriggerLimits(max_quality_drop=0.25, max_error_rate=0.25)
QUIET = Readings(
    new_interactions=1,
    last_run_at=NOW - timedelta(days=2),
    last_training_at=NOW - timedelta(days=2),
    baseline_quality=1.0,
    recent_quality=1.0,
    recent_errors=0.0,
)
LOUD = Readings(
    new_interactions=1000,
    last_run_at=NOW - timedelta(days=8),
    last_training_at=NOW - timedelta(days=8),
    baseline_quality=1.0,
    recent_quality=0.5,
    recent_errors=0.5,
    erasures=2,
)


def ago(**passed: float) -> datetime:
    return NOW - timedelta(**passed)


def gauge(readings: Readings, name: str) -> Gauge:
    (found,) = [g for g in decide(readings, LIMITS, NOW).gauges if g.name == name]
    return found


@pytest.mark.parametrize(
    ("changes", "fired"),
    [
        ({"new_interactions": 999}, None),
        ({"new_interactions": 1000}, "sample_count"),
        ({"last_training_at": ago(days=7) + timedelta(seconds=1)}, None),
        ({"last_training_at": ago(days=7)}, "scheduled"),
        ({"recent_quality": 0.75}, None),
        ({"recent_quality": 0.7499}, "quality_drop"),
        ({"baseline_quality": 0.5, "recent_quality": 0.37}, "quality_drop"),
        ({"recent_errors": 0.25}, None),
        ({"recent_errors": 0.2501}, "error_rate"),
        ({"erasures": 1}, "erasure"),
    ],
)
def test_a_trigger_fires_at_its_threshold_and_not_before(
    changes: dict[str, object], fired: str | None
) -> None:
    result = decide(replace(QUIET, **changes), LIMITS, NOW)
    assert (result.fired, result.trigger) == (fired is not None, fired)


def test_the_first_trigger_in_the_order_wins() -> None:
    for change, fired in (
        ({}, "sample_count"),
        ({"new_interactions": 1}, "scheduled"),
        ({"new_interactions": 1, "last_training_at": ago(days=1)}, "quality_drop"),
        (
            {"new_interactions": 1, "last_training_at": None, "recent_quality": None},
            "error_rate",
        ),
        (
            {
                "new_interactions": 1,
                "last_training_at": None,
                "recent_quality": None,
                "recent_errors": None,
            },
            "erasure",
        ),
    ):
        assert decide(replace(LOUD, **change), LIMITS, NOW).trigger == fired


@pytest.mark.parametrize(("rest", "fires"), [(23.99, False), (24, True), (25, True)])
def test_nothing_fires_until_the_rest_after_the_last_run_is_over(rest: float, fires: bool) -> None:
    assert decide(replace(LOUD, last_run_at=ago(hours=rest)), LIMITS, NOW).fired is fires


def test_a_rest_of_zero_hours_is_none() -> None:
    limits = replace(LIMITS, cooldown_hours=0.0)
    assert decide(replace(LOUD, last_run_at=NOW), limits, NOW).fired


def test_while_resting_the_reason_is_the_rest_and_the_gauges_are_read_all_the_same() -> None:
    result = decide(replace(LOUD, last_run_at=ago(hours=6)), LIMITS, NOW)
    assert result.reason == "6.0 of 24 hours of rest after the last training"
    assert [g.fires for g in result.gauges] == [True] * 6


@pytest.mark.parametrize("readings", [QUIET, LOUD])
def test_every_gauge_is_returned_with_value_and_threshold(readings: Readings) -> None:
    gauges = decide(readings, LIMITS, NOW).gauges
    assert [g.name for g in gauges] == [
        "cooldown",
        "sample_count",
        "scheduled",
        "quality_drop",
        "error_rate",
        "erasure",
    ]
    assert [g.threshold for g in gauges] == [24.0, 1000, 7.0, 0.25, 0.25, 1]
    assert None not in [g.value for g in gauges]


def test_when_nothing_fires_the_reason_tells_how_far_each_gauge_is() -> None:
    result = decide(replace(QUIET, recent_quality=0.9, recent_errors=0.1), LIMITS, NOW)
    for words in (
        "1 of 1000 new",
        "2.0 of 7 days",
        "0.90 against 1.00",
        "(-10%)",
        "10% errors",
        "no erasure",
    ):
        assert words in result.reason


def test_an_empty_log_fires_nothing() -> None:
    result = decide(Readings(0, None, None, None, None, None), LIMITS, NOW)
    assert not result.fired
    assert [g.value for g in result.gauges] == [None, 0, None, None, None, 0]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "no erasure waits for a rebuild"),
        (1, "1 erasure waits for a rebuild"),
        (2, "2 erasures wait for a rebuild"),
    ],
)
def test_the_erasures_that_wait_are_told_in_words(count: int, words: str) -> None:
    assert gauge(replace(QUIET, erasures=count), "erasure").text == words


def test_a_week_without_a_single_message_is_no_reason_to_train() -> None:
    assert not decide(
        replace(LOUD, new_interactions=0, recent_quality=1, recent_errors=0, erasures=0),
        LIMITS,
        NOW,
    ).fired


@pytest.mark.parametrize(("before", "after"), [(None, 0.1), (0.8, None), (0.0, 0.0), (0.0, 0.5)])
def test_quality_is_compared_only_where_there_are_two_means(
    before: float | None, after: float | None
) -> None:
    found = gauge(replace(QUIET, baseline_quality=before, recent_quality=after), "quality_drop")
    assert (found.value, found.fires) == (None, False)


def test_better_answers_than_at_first_are_a_negative_drop() -> None:
    found = gauge(replace(QUIET, baseline_quality=0.5, recent_quality=0.75), "quality_drop")
    assert (found.value, found.fires) == (-0.5, False)


def test_after_the_clock_was_set_back_no_time_passed_is_negative() -> None:
    ahead = NOW + timedelta(hours=3)
    readings = replace(LOUD, last_run_at=ahead, last_training_at=ahead)
    assert (gauge(readings, "cooldown").value, gauge(readings, "cooldown").fires) == (0.0, True)
    far_ahead = replace(LOUD, last_run_at=NOW + timedelta(days=30))
    assert decide(far_ahead, LIMITS, NOW).fired
    assert gauge(readings, "scheduled").value == 0.0
