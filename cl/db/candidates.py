"""What may become a training example, read from the log page by page.

Only what somebody rated is read: a log of a million messages holds far fewer thumbs. Pages go by
interaction id, so nothing is read twice and no more than a page of texts is in memory.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

from peewee import JOIN, SQL, Case, fn

from cl.db.tables import Conversation, Feedback
from cl.db.tables import Interaction as Row
from cl.records import Message, Status
from cl.rules.examples import MAX_TURNS, Example, Turn, as_messages, turns_before

PAGE = 500
_MANY_TURNS = 50

CORRECTED = Feedback.correction != ""
LIKED = (Feedback.thumb > 0) & (Feedback.correction == "")
DISLIKED = Feedback.thumb < 0
RATED = Feedback.thumb != 0

_COLUMNS = (
    Row.id,
    Row.conversation,
    Row.user,
    Row.prompt,
    Row.answer,
    Row.status,
    Row.version,
    Row.quality,
    Row.scorer,
    Row.finish_reason,
    Row.regenerates,
    Conversation.learn,
    Feedback.thumb,
    Feedback.correction,
)


def newest_first(which: Any, up_to_id: int, page: int = PAGE) -> Iterator[list[Example]]:
    """Pages of the rated interactions that fit `which`, the latest first."""
    below = up_to_id + 1
    while True:
        # Along the index of feedback: interactions nobody rated are not touched.
        query: Any = (
            Feedback.select(*_COLUMNS)
            .join(Row)
            .join(Conversation)
            .where((Feedback.interaction < below) & which)
            .order_by(Feedback.interaction.desc())
            .limit(page)
        )
        rows = list(query.tuples())
        if rows:
            yield _examples(rows)
        if len(rows) < page:
            return
        below = rows[-1][0]


def by_id(ids: Collection[int]) -> dict[int, Example]:
    """These interactions, rated or not; unknown ones are left out."""
    query: Any = (
        Row.select(*_COLUMNS)
        .join(Conversation)
        .switch(Row)
        .join(Feedback, JOIN.LEFT_OUTER)
        .where(Row.id.in_(list(ids)))
    )
    return {example.interaction_id: example for example in _examples(list(query.tuples()))}


def regenerated(up_to_id: int) -> Iterator[tuple[int, int]]:
    """(chosen, rejected) answers to one question: it was asked again, and people say which is better.

    The better one was liked while the other was not, or not disliked while the other was.
    """
    other, said_of_other = Row.alias(), Feedback.alias()
    query: Any = (
        Row.select(Row.id, Feedback.thumb, other.id, said_of_other.thumb)
        .join(other, on=(Row.regenerates == other.id))
        .switch(Row)
        .join(Feedback, JOIN.LEFT_OUTER)
        .join(said_of_other, JOIN.LEFT_OUTER, on=(said_of_other.interaction == other.id))
        .where((Row.id <= up_to_id) & Row.regenerates.is_null(False))
        .where((Row.status == Status.COMPLETE) & (other.status == Status.COMPLETE))
        .where(Row.prompt == other.prompt)  # in other words it is another question
        .order_by(Row.id)
    )
    for later, thumb, earlier, its_thumb in query.tuples().iterator():
        difference = (thumb or 0) - (its_thumb or 0)
        if difference:
            yield (later, earlier) if difference > 0 else (earlier, later)


def band(quality: float | None, maybe: float, good: float) -> str:
    """Which of four kinds a quality is: "none", "low", "maybe", "good"."""
    if quality is None:
        return "none"
    return "low" if quality < maybe else "maybe" if quality < good else "good"


def counts(up_to_id: int, maybe: float, good: float) -> dict[tuple[str, str | None, str], int]:
    """How many interactions there are by status, scorer and band of quality."""
    kinds = (
        (Row.quality.is_null(), "none"),
        (Row.quality < maybe, "low"),
        (Row.quality < good, "maybe"),
    )
    kind = Case(None, kinds, "good").alias("band")
    query: Any = (
        Row.select(Row.status, Row.scorer, kind, fn.COUNT(Row.id))
        .where(Row.id <= up_to_id)
        .group_by(
            Row.status, Row.scorer, SQL("band")
        )  # by its name: PostgreSQL takes no parameters here
    )
    return {(status, scorer, name): n for status, scorer, name, n in query.tuples()}


def unrated_questions(ids: Collection[int], most_chars: int) -> list[tuple[int, str, str]]:
    """(id, user, prompt) of those that opened a conversation and that nobody rated."""
    earlier = Row.alias()
    opened = ~fn.EXISTS(
        earlier.select(earlier.id).where(
            (earlier.conversation == Row.conversation) & (earlier.id < Row.id)
        )
    )
    query: Any = (
        Row.select(Row.id, Row.user, Row.prompt)
        .join(Conversation)
        .switch(Row)
        .join(Feedback, JOIN.LEFT_OUTER)
        .where(Row.id.in_(list(ids)) & (Row.status == Status.COMPLETE) & Conversation.learn)
        .where(Feedback.id.is_null() & (fn.LENGTH(Row.prompt) <= most_chars) & opened)
    )
    return list(query.tuples())


def _examples(rows: list[tuple[Any, ...]]) -> list[Example]:
    before = _contexts(rows)
    return [
        Example(
            interaction_id=id_,
            conversation_id=conversation,
            user=user,
            prompt=prompt,
            answer=correction or answer,
            version=version,
            thumb=thumb or 0,
            rejected=answer if correction else None,
            status=Status(status),
            quality=quality,
            scorer=scorer,
            finish_reason=finish,
            learn=learn,
            context=before[id_],
        )
        for (
            id_,
            conversation,
            user,
            prompt,
            answer,
            status,
            version,
            quality,
            scorer,
            finish,
            _,
            learn,
            thumb,
            correction,
        ) in rows
    ]


def _contexts(rows: list[tuple[Any, ...]]) -> dict[int, tuple[Message, ...]]:
    """The turns before each of these interactions, by its id."""
    conversations = {row[1] for row in rows}
    sizes: Any = (
        Row.select(Row.conversation, fn.COUNT(Row.id))
        .where(Row.conversation.in_(conversations))
        .group_by(Row.conversation)
    )
    size = dict(sizes.tuples())
    short = {c for c in conversations if 1 < size[c] <= _MANY_TURNS}
    turns: dict[int, list[Turn]] = defaultdict(list)
    for conversation, *turn in _turns(Row.conversation.in_(short)) if short else ():
        turns[conversation].append(Turn(*turn))
    found: dict[int, tuple[Message, ...]] = {}
    for id_, conversation, regenerates in ((row[0], row[1], row[10]) for row in rows):
        known: list[Turn] = turns[conversation]
        if size[conversation] > _MANY_TURNS:
            latest = _turns((Row.conversation == conversation) & (Row.id < id_))
            latest = latest.order_by(Row.id.desc()).limit(3 * MAX_TURNS)
            known = [Turn(*turn) for _, *turn in latest][::-1]
        found[id_] = tuple(as_messages(turns_before(known, id_, regenerates)[-MAX_TURNS:]))
    return found


def _turns(which: Any) -> Any:
    return (
        Row.select(Row.conversation, Row.id, Row.prompt, Row.answer, Row.status, Row.regenerates)
        .where(which)
        .order_by(Row.id)
        .tuples()
    )
