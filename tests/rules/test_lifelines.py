"""The lives of versions, told from the audit trail."""

from datetime import UTC, datetime, timedelta

from cl.rules.lifelines import Event, Span, lifelines

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def spans(*events: tuple[float, str, str]) -> list[tuple[str, str, float, float | None, str]]:
    found = lifelines(Event(at(hours), action, subject) for hours, action, subject in events)

    def hours(moment: datetime | None) -> float | None:
        return None if moment is None else (moment - START).total_seconds() / 3600

    return [(s.version, s.role, hours(s.start) or 0.0, hours(s.end), s.mark) for s in found]


def test_without_events_nobody_lived() -> None:
    assert lifelines([]) == []


def test_the_first_one_serves_the_second_is_tested_and_promoted() -> None:
    assert spans((0, "deploy", "v1"), (5, "deploy", "v2"), (9, "promote", "v2")) == [
        ("v1", "service", 0, 9, "replaced"),
        ("v2", "test", 5, 9, "promoted"),
        ("v2", "service", 9, None, ""),
    ]


def test_a_retired_challenger_leaves_the_champion() -> None:
    assert spans((0, "deploy", "v1"), (5, "deploy", "v2"), (9, "retire", "v2")) == [
        ("v1", "service", 0, None, ""),
        ("v2", "test", 5, 9, "retired"),
    ]


def test_a_roll_back_brings_the_old_one_back_or_the_base_model() -> None:
    story = ((0, "deploy", "v1"), (5, "deploy", "v2"), (9, "promote", "v2"))
    assert spans(*story, (10, "rollback", "v2 -> v1"), (11, "rollback", "v1 -> base"))[2:] == [
        ("v2", "service", 9, 10, "rolled back"),
        ("v1", "service", 10, 11, "rolled back"),
    ]


def test_a_roll_back_ends_a_running_test() -> None:
    found = spans((0, "deploy", "v1"), (5, "deploy", "v2"), (6, "rollback", "v1 -> base"))
    assert found == [("v1", "service", 0, 6, "rolled back"), ("v2", "test", 5, 6, "retired")]


def test_a_champion_that_has_to_go_is_replaced_without_a_test() -> None:
    events = [
        Event(at(0), "deploy", "v1", "the first champion"),
        Event(at(3), "deploy", "v2", "run 2; in place of v1, which learned from erased texts"),
    ]
    assert lifelines(events) == [
        Span("v1", "service", at(0), at(3), "replaced"),
        Span("v2", "service", at(3)),
    ]


def test_a_trail_that_begins_in_the_middle_is_borne() -> None:
    assert spans((1, "promote", "v7"), (2, "retire", "v8")) == [("v7", "service", 1, None, "")]
