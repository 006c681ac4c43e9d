"""The ledger of an experiment: what it counts of each answer, as it came in.

Written in the same transaction as what it speaks of; read by the comparison, whole or only what is
new since the last look.
"""

from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peewee import Case, Database, SqliteDatabase, fn

from cl.db.tables import Experiment, Feedback, Observation
from cl.db.tables import Interaction as Row
from cl.records import Arm, Status

_COLUMNS = (
    Observation.interaction_id,
    Observation.conversation_id,
    Observation.arm,
    Observation.quality,
    Observation.latency_s,
    Observation.thumb,
    Observation.is_error,
)
_FLAGS = (  # 8: challenger; 0, 2, 4: thumb down, none, up; 1: error
    Case(None, ((Observation.arm == Arm.CHALLENGER, 8),), 0)
    + (Observation.thumb + 1) * 2
    + Case(None, ((Observation.is_error, 1),), 0)
)
_LATE = 1000  # rows in which a database of several writers may show a lower number after a higher
_NONE = -1.0  # no quality, no latency: a number, which is read faster than None


def note(*interaction_ids: int) -> None:
    """Write down how these answers stand now, as far as a running experiment counts them.

    Not counted: an answer still being written, cancelled before its first word, or cut off by a
    restart.
    """
    started = (Row.status == Status.CANCELLED) & Row.first_token_s.is_null(False)
    counted = Row.status.in_((Status.COMPLETE, Status.ERROR)) | started
    failed = (Row.status == Status.ERROR) | Row.failed.is_null(False)
    now: Any = (
        Row.select(
            Row.experiment_id,
            Row.id,
            Row.conversation,
            Row.arm,
            Case(None, ((Row.scorer == Experiment.scorer, Row.quality),), None),
            Row.latency_s,
            fn.COALESCE(Feedback.thumb, 0),
            Case(None, ((failed, True),), False),
        )
        .join(Experiment, on=(Row.experiment_id == Experiment.id))
        .switch(Row)
        .left_outer_join(Feedback)
        .where(Row.id.in_(interaction_ids) & Experiment.ended_at.is_null() & counted)
    )
    Observation.insert_from(now, [Observation.experiment_id, *_COLUMNS]).execute()


@dataclass(frozen=True)
class Ledger:
    """The newest observation of each answer of one experiment, a value per answer."""

    experiment_id: int
    last: int = 0  # the newest row it knows
    interaction: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    # Shape (n, 4): the conversation, the quality, the latency and the flags.
    numbers: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))

    def arm(self, arm: Arm) -> dict[str, NDArray[Any]]:
        """One arm's columns, as the comparison wants them."""
        flags = self.numbers[:, 3].astype(np.int64)
        mine = (flags // 8 == 1) == (arm is Arm.CHALLENGER)
        rows, flags = self.numbers[mine], flags[mine]
        return {
            "conversation": rows[:, 0].astype(np.int64),
            "quality": rows[:, 1],
            "latency_s": rows[:, 2],
            "feedback": flags // 2 % 4 - 1,
            "error": flags % 2 == 1,
        }


def read(database: Database, known: Ledger, up_to: int | None = None) -> Ledger:
    """The ledger with what came in since, up to the row `up_to`.

    SQLite has one writer at a time. Elsewhere rows get their numbers before they can be seen, so the
    latest ones are read again: what another process wrote late is among them.
    """
    after = known.last - (0 if isinstance(database, SqliteDatabase) else _LATE)
    is_wanted = (Observation.experiment_id == known.experiment_id) & (Observation.id > after)
    if up_to is not None:
        is_wanted &= Observation.id <= up_to
    last = Observation.select(fn.MAX(Observation.id)).where(is_wanted).scalar()
    if last is None:
        return known
    # Few and plain columns: making a Python object of each value is what takes the time.
    query = Observation.select(
        Observation.interaction_id,
        Observation.conversation_id,
        fn.COALESCE(Observation.quality, _NONE),
        fn.COALESCE(Observation.latency_s, _NONE),
        _FLAGS,
    ).where(is_wanted & (Observation.id <= last))
    rows = database.execute(query.order_by(Observation.id)).fetchall()
    found = np.fromiter(chain.from_iterable(rows), np.float64).reshape(-1, 5)
    found[:, 2:4][found[:, 2:4] == _NONE] = np.nan
    interaction = np.concatenate([known.interaction, found[:, 0].astype(np.int64)])
    numbers = np.concatenate([known.numbers, found[:, 1:]])
    _, newest = np.unique(interaction[::-1], return_index=True)
    keep = len(interaction) - 1 - newest  # in order of the answers' numbers
    return Ledger(known.experiment_id, int(last), interaction[keep], numbers[keep])


def recent(
    database: Database, since: datetime, limit: int
) -> tuple[dict[str, NDArray[Any]], float]:
    """The latest answers that no challenger wrote, as columns, and the hours they span."""
    query = (
        Row.select(
            Row.conversation,
            Row.quality,
            Row.latency_s,
            fn.COALESCE(Feedback.thumb, 0),
            Case(None, ((Row.status == Status.ERROR, 1),), 0),
            Row.created_at,
        )
        .left_outer_join(Feedback)
        .where(
            (Row.created_at >= since)
            & (Row.arm != Arm.CHALLENGER)
            & Row.status.in_((Status.COMPLETE, Status.ERROR))
            & Row.latency_s.is_null(False)  # imported ones were not measured
        )
        .order_by(Row.id.desc())
        .limit(limit)
    )
    rows = database.execute(query).fetchall()
    found = np.asarray(rows, dtype=np.float64).reshape(-1, 6)
    span = float(np.ptp(found[:, 5])) / 3_600_000 if len(found) else 0.0
    columns: dict[str, NDArray[Any]] = {
        "conversation": found[:, 0].astype(np.int64),
        "quality": found[:, 1],
        "latency_s": found[:, 2],
        "feedback": found[:, 3].astype(np.int64),
        "error": found[:, 4].astype(bool),
    }
    return columns, max(span, 1.0)
