"""What people said of answers, filtered and page by page, the newest answers first.

A page looks at no more than `_REACH` ratings: where a filter is rare it may come out short, and says
from where to look on. So a page costs the same in a log of any size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from peewee import fn

from cl.db.tables import Feedback, Review
from cl.db.tables import Interaction as Row
from cl.records import Decision

VOTES = ("up", "down", "corrected", "commented")
WAITING = "waiting"
DECISIONS = (WAITING, *(decision.value for decision in Decision))

_REACH = 20_000
_EXPORTED = 500  # rows an export holds in memory


@dataclass(frozen=True)
class Wanted:
    """Which ratings to show; an empty field asks for nothing."""

    vote: str = ""
    decision: str = ""
    reason: str = ""
    version: str = ""


@dataclass(frozen=True)
class Rating:
    """One answer with everything that was said of it."""

    id: int  # of the interaction
    at: datetime
    user: str
    thumb: int
    reasons: tuple[str, ...]
    comment: str
    correction: str
    prompt: str
    answer: str
    version: str
    quality: float | None
    scorer: str | None


@dataclass(frozen=True)
class Page:
    ratings: tuple[Rating, ...]
    older: int | None  # where to look on, below this interaction; None at the end


def page(wanted: Wanted, below: int | None = None, size: int = 25) -> Page:
    """The newest ratings that are wanted, of answers before `below`."""
    reached = _reached(below)
    if reached is None:
        return Page((), None)
    found = _read(wanted, below, reached, size + 1)
    if len(found) > size:
        return Page(tuple(found[:size]), found[size - 1].id)
    is_all = not Feedback.select().where(Feedback.interaction < reached).exists()
    return Page(tuple(found), None if is_all else reached)


def every(wanted: Wanted) -> Iterator[Rating]:
    """All ratings that are wanted, however many."""
    below: int | None = None
    while True:
        found = page(wanted, below, _EXPORTED)
        yield from found.ratings
        if found.older is None:
            return
        below = found.older


def _reached(below: int | None) -> int | None:
    """The oldest answer this page looks at; None when there is none."""
    ids: Any = Feedback.select(Feedback.interaction)
    if below is not None:
        ids = ids.where(Feedback.interaction < below)
    within = ids.order_by(Feedback.interaction.desc()).limit(_REACH).alias("within")
    found = Feedback.select(fn.MIN(within.c.interaction_id)).from_(within).scalar()
    return None if found is None else int(found)


def _read(wanted: Wanted, below: int | None, reached: int, size: int) -> list[Rating]:
    query: Any = (
        Feedback.select(
            Row.id,
            Row.created_at,
            Row.user,
            Feedback.thumb,
            Feedback.reasons,
            Feedback.comment,
            Feedback.correction,
            Row.prompt,
            Row.answer,
            Row.version,
            Row.quality,
            Row.scorer,
        )
        .join(Row)
        .where((Feedback.interaction >= reached) & _is_said())
    )
    if below is not None:
        query = query.where(Feedback.interaction < below)
    for condition in _conditions(wanted):
        query = query.where(condition)
    rows = query.order_by(Feedback.interaction.desc()).limit(size).tuples()
    found = []
    for id_, at, user, thumb, reasons, comment, better, prompt, answer, *scored in rows:
        said = (thumb, tuple(reasons or ()), comment, better)
        found.append(Rating(id_, at, user, *said, prompt, answer, *scored))
    return found


def _is_said() -> Any:
    """Withdrawn thumbs leave a row that says nothing."""
    return (Feedback.thumb != 0) | (Feedback.correction != "") | (Feedback.comment != "")


def _conditions(wanted: Wanted) -> Iterator[Any]:
    votes = {
        "up": Feedback.thumb > 0,
        "down": Feedback.thumb < 0,
        "corrected": Feedback.correction != "",
        "commented": Feedback.comment != "",
    }
    if wanted.vote:
        yield votes[wanted.vote]
    if wanted.reason:
        yield Feedback.reasons.cast("TEXT").contains(f'"{wanted.reason}"')
    if wanted.version:
        yield Row.version == wanted.version
    if wanted.decision:
        decided = Review.select(Review.interaction_id).where(Review.interaction_id == Row.id)
        if wanted.decision == WAITING:
            yield ~fn.EXISTS(decided)
        else:
            yield fn.EXISTS(decided.where(Review.decision == wanted.decision))
