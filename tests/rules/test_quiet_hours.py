"""When trainings may begin."""

from datetime import time

import pytest

from cl.rules.quiet_hours import may_begin


@pytest.mark.parametrize(
    ("hours", "now", "expected"),
    [
        ("", "12:00", True),
        ("22:00-06:00", "21:59", False),
        ("22:00-06:00", "22:00", True),
        ("22:00-06:00", "00:00", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False),
        ("01:30-04:00", "01:29", False),
        ("01:30-04:00", "01:30", True),
        ("01:30-04:00", "04:00", False),
        ("00:00-00:00", "12:00", True),  # around the clock
    ],
)
def test_a_training_begins_within_the_hours_only(hours: str, now: str, expected: bool) -> None:
    assert may_begin(hours, time.fromisoformat(now)) is expected
