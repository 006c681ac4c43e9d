"""The lives of the versions, as the audit trail tells them: who was under test and in service when."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from cl.records import BASE

ACTIONS = ("deploy", "promote", "retire", "rollback")
TEST, SERVICE = "test", "service"
_INSTEAD = "in place of"  # a champion that had to go is replaced without a test


class Event(NamedTuple):
    """A line of the audit trail."""

    at: datetime
    action: str
    subject: str
    reason: str = ""


@dataclass(frozen=True)
class Span:
    """A stretch of a version's life. `end` is None while it lasts, `mark` how it ended."""

    version: str
    role: str  # test, service
    start: datetime
    end: datetime | None = None
    mark: str = ""  # promoted, retired, replaced, rolled back


def lifelines(events: Iterable[Event]) -> list[Span]:
    """The spans, in the order in which they began. Give the events in order."""
    lives = _Lives()
    for event in events:
        lives.take(event)
    return lives.spans


class _Lives:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def take(self, event: Event) -> None:
        name, at = event.subject, event.at
        if event.action == "deploy":
            if self._has(SERVICE) and _INSTEAD not in event.reason:
                self._begin(name, TEST, at)
            else:
                self._end(SERVICE, at, "replaced")
                self._begin(name, SERVICE, at)
        elif event.action == "promote":
            self._end(TEST, at, "promoted")
            self._end(SERVICE, at, "replaced")
            self._begin(name, SERVICE, at)
        elif event.action == "retire":
            self._end(TEST, at, "retired")
        elif event.action == "rollback":
            self._end(TEST, at, "retired")
            self._end(SERVICE, at, "rolled back")
            target = name.rpartition(" -> ")[2]
            if target != BASE:
                self._begin(target, SERVICE, at)

    def _has(self, role: str) -> bool:
        return any(span.role == role and span.end is None for span in self.spans)

    def _begin(self, version: str, role: str, at: datetime) -> None:
        self.spans.append(Span(version, role, at))

    def _end(self, role: str, at: datetime, mark: str) -> None:
        self.spans = [
            replace(span, end=at, mark=mark) if span.role == role and span.end is None else span
            for span in self.spans
        ]
