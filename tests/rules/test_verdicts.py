"""What makes a comparison doubtful is said, with what to do about it."""

from dataclasses import replace

from cl.records import ArmScore, Comparison
from cl.rules.verdicts import is_harmful, needs_no_yes, notes
from cl.settings import ExperimentLimits

LIMITS = ExperimentLimits()
ARM = ArmScore("v0001", 900, 300, 900, 90, 60, 9, 0.7, 0.6, 3.0, 0.3, 0.47)
OTHER = replace(ARM, version="v0002", requests=100, conversations=33, rated=10, positives=7)
SEEN = Comparison(1, "continue", "undecided", "", 60.0, ARM, OTHER, 0.0, split_log_e=0.0)


def test_a_sound_comparison_needs_no_note() -> None:
    assert notes(SEEN, LIMITS) == []


def test_a_wrong_split_is_told() -> None:
    (text,) = notes(replace(SEEN, split_log_e=9.0), LIMITS)
    assert text.startswith("33 of 333 conversations met the challenger, 10% should have.")


def test_sides_that_are_rated_unlike_are_told() -> None:
    (text,) = notes(replace(SEEN, challenger=replace(OTHER, rated=30)), LIMITS)
    assert text.startswith("30% of v0002's answers are rated and 10% of v0001's")
    assert notes(replace(SEEN, challenger=replace(OTHER, rated=15)), LIMITS) == []  # chance


def test_too_few_conversations_are_told_once_there_was_time_for_more() -> None:
    few = replace(SEEN, challenger=replace(OTHER, conversations=3))
    (text,) = notes(few, LIMITS)
    assert "Only 3 conversations" in text
    assert notes(replace(few, hours=10.0), LIMITS) == []


def test_an_empty_side_is_no_error() -> None:
    empty = ArmScore("v0002", 0, 0, 0, 0, 0, 0, None, None, None, None, None)
    assert notes(replace(SEEN, challenger=empty, hours=1.0), LIMITS) == []


def test_what_does_not_wait_for_a_yes() -> None:
    assert is_harmful(replace(SEEN, decision="retire", reason="guardrail_error"))
    assert is_harmful(replace(SEEN, decision="rollback", reason="worse"))
    assert not is_harmful(replace(SEEN, decision="retire", reason="worse"))
    assert needs_no_yes(replace(SEEN, decision="keep", reason="no_harm"))
    assert not needs_no_yes(replace(SEEN, decision="promote", reason="better"))
