"""What the pages and `status` show: read-only, and never more than a bounded part of the log."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any

from peewee import JOIN, Case, fn

from cl.db.digests import Numbers
from cl.db.tables import (
    Audit,
    Check,
    Conversation,
    Due,
    Experiment,
    Feedback,
    Iteration,
    TrainingRun,
)
from cl.db.tables import Interaction as Row
from cl.records import Status
from cl.rules import lifelines
from cl.rules.lifelines import Event
from cl.rules.side_by_side import Seen

_RECENT = 5000


@dataclass(frozen=True)
class Counts:
    """The log in six numbers."""

    interactions: int
    people: int
    thumbs_up: int
    thumbs_down: int
    corrections: int
    errors: int


@dataclass(frozen=True)
class Point:
    """One answer, as the plots need it."""

    at: datetime
    version: str
    status: str
    quality: float | None
    latency_s: float | None
    first_token_s: float | None
    tokens: int | None
    thumb: int


def counts(numbers: Iterable[Numbers]) -> Counts:
    """The log as a whole, given its numbers by version."""
    total = sum(numbers, Numbers())
    return Counts(
        interactions=total.messages,
        people=_people(),
        thumbs_up=total.ups,
        thumbs_down=total.downs,
        corrections=total.corrections,
        errors=total.errors,
    )


# From one name to the next along the index: as many steps as there are people.
_PEOPLE = """
WITH RECURSIVE person(name) AS (
    SELECT MIN("user") FROM conversation
    UNION ALL
    SELECT (SELECT MIN("user") FROM conversation WHERE "user" > person.name)
    FROM person WHERE person.name IS NOT NULL
)
SELECT COUNT(name) FROM person
"""


def _people() -> int:
    (count,) = Conversation._meta.database.execute_sql(_PEOPLE).fetchone()
    return int(count)


def recent_points(limit: int = _RECENT) -> list[Point]:
    """The latest answers, also failed ones, oldest first."""
    columns = (
        Row.created_at,
        Row.version,
        Row.status,
        Row.quality,
        Row.latency_s,
        Row.first_token_s,
        Row.answer_tokens,
    )
    rows: Any = (
        Row.select(*columns, Feedback.thumb)
        .join(Feedback, JOIN.LEFT_OUTER)
        .where(Row.status.in_((Status.COMPLETE, Status.ERROR)))
        .order_by(Row.id.desc())
        .limit(limit)
    )
    points = [
        Point(at, version, status, quality, latency, first, tokens, thumb or 0)
        for at, version, status, quality, latency, first, tokens, thumb in rows.tuples()
    ]
    return points[::-1]


def online(since: datetime) -> int:
    """People who have said something since then."""
    users: Any = Row.select(Row.user).where(Row.created_at >= since).distinct()
    return int(users.count())


def answers_of(experiment_id: int, limit: int = 10_000) -> list[Seen]:
    """The latest answers of a test, as the comparison shows them."""
    again = Row.alias()
    is_regenerated = fn.EXISTS(again.select(again.id).where(again.regenerates == Row.id))
    rows: Any = (
        Row.select(
            Row.arm,
            Feedback.thumb,
            Feedback.reasons,
            Row.first_token_s,
            Row.answer_tokens,
            Case(None, ((is_regenerated, 1),), 0),
        )
        .join(Feedback, JOIN.LEFT_OUTER)
        .where((Row.experiment_id == experiment_id) & (Row.status == Status.COMPLETE))
        .order_by(Row.id.desc())
        .limit(limit)
    )
    return [
        Seen(arm, thumb or 0, tuple(reasons or ()), first, tokens, bool(again))
        for arm, thumb, reasons, first, tokens, again in rows.tuples()
    ]


def lives(limit: int = 400) -> list[Event]:
    """What happened to versions, oldest first."""
    rows: Any = Audit.select(Audit.at, Audit.action, Audit.subject, Audit.reason)
    rows = rows.where(Audit.action.in_(lifelines.ACTIONS)).order_by(Audit.id.desc()).limit(limit)
    return [Event(*row) for row in rows.tuples()][::-1]


def runs(limit: int = 50) -> list[dict[str, Any]]:
    """Training runs, the newest first."""
    found: Any = TrainingRun.select().order_by(TrainingRun.id.desc()).limit(limit).dicts()
    return list(found)


def last_ended() -> datetime | None:
    """When the latest training or test ended."""
    found: list[datetime | None] = [
        table.select(fn.MAX(table.ended_at)).scalar() for table in (TrainingRun, Experiment)
    ]
    return max((at for at in found if at), default=None)


def last_due(name: str) -> datetime | None:
    """When this repeated piece of work was taken up last."""
    row = Due.get_or_none(Due.name == name)
    return row.last_at if row else None


def open_run() -> dict[str, Any] | None:
    found: dict[str, Any] | None = (
        TrainingRun.select().where(TrainingRun.ended_at.is_null()).dicts().first()
    )
    return found


def iterations(limit: int = 100) -> list[dict[str, Any]]:
    found: Any = Iteration.select().order_by(Iteration.id.desc()).limit(limit).dicts()
    return list(found)


def audit_trail(
    search: str = "", below: int | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """Lines of the audit trail, the newest first; those that hold the words, if any are given."""
    found: Any = Audit.select().order_by(Audit.id.desc()).limit(limit)
    if below is not None:
        found = found.where(Audit.id < below)
    if search:
        columns = (
            Audit.actor,
            Audit.action,
            Audit.subject,
            Audit.reason,
            Audit.before,
            Audit.after,
        )
        found = found.where(reduce(or_, (column.contains(search) for column in columns)))
    return list(found.dicts())


def last_check() -> dict[str, Any] | None:
    """The latest look at the running experiment; None without one or before the first look."""
    found: dict[str, Any] | None = (
        Check.select(Check)
        .join(Experiment)
        .where(Experiment.ended_at.is_null())
        .order_by(Check.id.desc())
        .dicts()
        .first()
    )
    return found


def checks(experiment_id: int, limit: int = 500) -> list[dict[str, Any]]:
    """The looks at an experiment, the newest first; `number` counts them from 1."""
    mine: Any = Check.select().where(Check.experiment == experiment_id)
    count = mine.count()
    found: Any = mine.order_by(Check.id.desc()).limit(limit).dicts()
    return [{**check, "number": count - place} for place, check in enumerate(found)]


def open_experiment() -> dict[str, Any] | None:
    found: dict[str, Any] | None = (
        Experiment.select().where(Experiment.ended_at.is_null()).dicts().first()
    )
    return found


def scores(limit: int = 500) -> list[tuple[datetime, float, float]]:
    """Overall scores at each look at a test: (when, champion, challenger), oldest first."""
    rows: Any = Check.select(Check.at, Check.numbers).order_by(Check.id.desc()).limit(limit)
    found = [(at, n["champion"]["score"], n["challenger"]["score"]) for at, n in rows.tuples()]
    return [(at, a, b) for at, a, b in found[::-1] if a is not None and b is not None]


def experiments(limit: int = 50) -> list[dict[str, Any]]:
    found: Any = Experiment.select().order_by(Experiment.id.desc()).limit(limit).dicts()
    return list(found)
