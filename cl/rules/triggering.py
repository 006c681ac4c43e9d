"""When to retrain: the cooldown, then five triggers in a fixed order.

The counts go by interaction id since the last training, not by clock, so imports and clock jumps
cannot start a training twice. Every gauge is read and returned, whether or not anything fires.
"""

from dataclasses import dataclass
from datetime import datetime

from cl.records import Gauge, TriggerResult
from cl.settings import TriggerLimits

_DUST = 1e-9  # 0.80 to 0.72 is 10 % in decimals, and a little more in binary


@dataclass(frozen=True)
class Readings:
    """What the log says now. Qualities are means in [0, 1] by one and the same scorer."""

    new_interactions: int  # finished since the last training; at most `most_counted`
    last_run_at: datetime | None  # when the last run of any outcome ended
    last_training_at: datetime | None  # when the last training ended, or the first message came
    baseline_quality: float | None  # of the version in service, when it was fresh
    recent_quality: float | None
    recent_errors: float | None  # share in [0, 1]
    erasures: int = 0  # of texts that a version in traffic learned from


def most_counted(limits: TriggerLimits) -> int:
    """How many new interactions are counted at most: enough to decide, in a log of any size."""
    return 10 * limits.min_new_samples


def decide(readings: Readings, limits: TriggerLimits, now: datetime) -> TriggerResult:
    """The first trigger that fires, with the reason in words."""
    gauges = (
        _sample_count(readings, limits),
        _scheduled(readings, limits, now),
        _quality_drop(readings, limits),
        _error_rate(readings, limits),
        _erasure(readings),
    )
    cooldown = _cooldown(readings, limits, now)
    everything = (cooldown, *gauges)
    if cooldown.fires:
        return TriggerResult(False, None, cooldown.text, everything)
    for gauge in gauges:
        if gauge.fires:
            return TriggerResult(True, gauge.name, gauge.text, everything)
    return TriggerResult(
        False, None, "No trigger fires: " + "; ".join(g.text for g in gauges) + ".", everything
    )


def _cooldown(readings: Readings, limits: TriggerLimits, now: datetime) -> Gauge:
    if readings.last_run_at is None:
        return Gauge("cooldown", None, limits.cooldown_hours, "hours", False, "no training so far")
    hours = (now - readings.last_run_at).total_seconds() / 3600
    # After a clock was set right, the last run may lie far in the future: that must not block.
    active = -limits.cooldown_hours <= hours < limits.cooldown_hours
    hours = max(0.0, hours)
    text = f"{hours:.1f} of {limits.cooldown_hours:g} hours of rest after the last training"
    return Gauge("cooldown", hours, limits.cooldown_hours, "hours", active, text)


def _sample_count(readings: Readings, limits: TriggerLimits) -> Gauge:
    new, wanted = readings.new_interactions, limits.min_new_samples
    more = " or more" if new >= most_counted(limits) else ""
    return Gauge(
        "sample_count",
        new,
        wanted,
        "interactions",
        new >= wanted,
        f"{new}{more} of {wanted} new interactions",
    )


def _scheduled(readings: Readings, limits: TriggerLimits, now: datetime) -> Gauge:
    if readings.last_training_at is None:
        return Gauge("scheduled", None, limits.max_days, "days", False, "nobody has written yet")
    days = max(0.0, (now - readings.last_training_at).total_seconds() / 86400)
    fires = days >= limits.max_days and readings.new_interactions > 0
    return Gauge(
        "scheduled", days, limits.max_days, "days", fires, f"{days:.1f} of {limits.max_days:g} days"
    )


def _quality_drop(readings: Readings, limits: TriggerLimits) -> Gauge:
    before, after = readings.baseline_quality, readings.recent_quality
    if not before or after is None:
        text = "too few scored answers to compare quality"
        return Gauge("quality_drop", None, limits.max_quality_drop, "share", False, text)
    drop = (before - after) / before
    text = f"quality {after:.2f} against {before:.2f} at first ({-drop:+.0%})"
    return Gauge(
        "quality_drop",
        drop,
        limits.max_quality_drop,
        "share",
        drop > limits.max_quality_drop + _DUST,
        text,
    )


def erasures_text(count: int) -> str:
    """How many erasures wait for a rebuild, in words."""
    if not count:
        return "no erasure waits for a rebuild"
    return "1 erasure waits for a rebuild" if count == 1 else f"{count} erasures wait for a rebuild"


def _erasure(readings: Readings) -> Gauge:
    count = readings.erasures
    return Gauge("erasure", count, 1, "erasures", count >= 1, erasures_text(count))


def _error_rate(readings: Readings, limits: TriggerLimits) -> Gauge:
    rate = readings.recent_errors
    if rate is None:
        return Gauge(
            "error_rate",
            None,
            limits.max_error_rate,
            "share",
            False,
            "too few answers to count errors",
        )
    fires = rate > limits.max_error_rate
    return Gauge("error_rate", rate, limits.max_error_rate, "share", fires, f"{rate:.0%} errors")
