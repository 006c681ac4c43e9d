"""You said, it learned: what the version in service has learned from one person, told once."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl import lineage
from cl.db.tables import Conversation, Feedback, Told
from cl.db.tables import Interaction as Row
from cl.db.tables import Version as VersionRow
from cl.model.training.measured import read_answers
from cl.records import Stage

_MOST = 3  # answers that are shown


@dataclass(frozen=True)
class Lesson:
    """A question somebody corrected the answer to, and what is answered now."""

    question: str
    before: str
    after: str


@dataclass(frozen=True)
class News:
    """What a person taught the version in service: answers it gives right now, and all in all."""

    version: str
    lessons: tuple[Lesson, ...]
    taught: int  # of their corrected or rated answers, those in its training set


def latest(user: str, runs: Path) -> News | None:
    """What this person has not been told yet; None when there is nothing."""
    champion = VersionRow.get_or_none(VersionRow.stage == Stage.CHAMPION)
    if champion is None or champion.run_id is None or _is_told(user, champion.name):
        return None
    folder = runs / f"{champion.run_id:04d}"
    mine = _rated_by(user) & lineage.listed_in(folder / "data", "train")
    if not mine:
        mark_told(user, champion.name)  # so that the files are not read again
        return None
    return News(champion.name, tuple(_lessons(folder, mine)), len(mine))


def mark_told(user: str, version: str) -> None:
    """This person has read it. Twice is once."""
    Told.insert(user=user, version=version).on_conflict_ignore().execute()


def _is_told(user: str, version: str) -> bool:
    return bool(Told.select().where((Told.user == user) & (Told.version == version)).exists())


def _rated_by(user: str) -> set[int]:
    rows: Any = Feedback.select(Feedback.interaction).where(Feedback.user == user).tuples()
    return {id_ for (id_,) in rows}


def _lessons(folder: Path, mine: set[int]) -> Iterable[Lesson]:
    """Corrected answers that the version was asked for at the gate, and gave right."""
    known = {a.id: a.after for a in read_answers(folder) if a.id in mine and a.keys and a.is_right}
    rows = Row.select(Row.id, Row.prompt, Row.answer).join(Conversation)
    rows = rows.where(Row.id.in_(list(known)[-500:]) & ~Conversation.hidden)
    changed = [row for row in rows.order_by(Row.id.desc()) if row.answer != known[row.id]]
    return (Lesson(row.prompt, row.answer, known[row.id]) for row in changed[:_MOST])
