"""What the pages and `status` show: read-only, and never more than a bounded part of the log."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from peewee import JOIN

from cl.db.digests import Numbers
from cl.db.tables import Audit, Check, Conversation, Experiment, Feedback, Iteration, TrainingRun
from cl.db.tables import Interaction as Row
from cl.records import Status

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
    """One finished answer, as the plots need it."""

    at: datetime
    version: str
    quality: float | None
    latency_s: float | None
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
    """The latest finished answers, oldest first."""
    rows: Any = (
        Row.select(Row.created_at, Row.version, Row.quality, Row.latency_s, Feedback.thumb)
        .join(Feedback, JOIN.LEFT_OUTER)
        .where(Row.status == Status.COMPLETE)
        .order_by(Row.id.desc())
        .limit(limit)
    )
    points = [
        Point(at, version, q, latency, thumb or 0)
        for at, version, q, latency, thumb in rows.tuples()
    ]
    return points[::-1]


def latest_feedback(limit: int = 100) -> list[dict[str, Any]]:
    """What people said last, with the question and the answer they said it of."""
    rows: Any = (
        Feedback.select(Feedback, Row)
        .join(Row)
        .where((Feedback.thumb != 0) | (Feedback.correction != "") | (Feedback.comment != ""))
        .order_by(Feedback.updated_at.desc(), Feedback.id.desc())
        .limit(limit)
    )
    return [
        {
            "at": row.updated_at,
            "user": row.user,
            "prompt": row.interaction.prompt,
            "answer": row.interaction.answer,
            "thumb": row.thumb,
            "reasons": row.reasons,
            "comment": row.comment,
            "correction": row.correction,
            "version": row.interaction.version,
        }
        for row in rows
    ]


def runs(limit: int = 50) -> list[dict[str, Any]]:
    """Training runs, the newest first."""
    found: Any = TrainingRun.select().order_by(TrainingRun.id.desc()).limit(limit).dicts()
    return list(found)


def open_run() -> dict[str, Any] | None:
    found: dict[str, Any] | None = (
        TrainingRun.select().where(TrainingRun.ended_at.is_null()).dicts().first()
    )
    return found


def iterations(limit: int = 100) -> list[dict[str, Any]]:
    found: Any = Iteration.select().order_by(Iteration.id.desc()).limit(limit).dicts()
    return list(found)


def audit_trail(limit: int = 200) -> list[dict[str, Any]]:
    found: Any = Audit.select().order_by(Audit.id.desc()).limit(limit).dicts()
    return list(found)


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
