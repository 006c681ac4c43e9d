"""Deleting rows of the log with everything that hangs on them, in small transactions.

SQLite gives the highest number away again once its row is gone, and an answer still being written
would then end in somebody else's row. So the newest interaction and conversation are emptied and
stay until newer ones have come.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from peewee import chunked, fn

from cl.db import digests
from cl.db.tables import (
    Audit,
    Conversation,
    Erasure,
    Experiment,
    Feedback,
    Iteration,
    Reading,
    Review,
    Setting,
    TrainingRun,
)
from cl.db.tables import Interaction as Row
from cl.records import Arm, Status
from cl.rules.text import shorten

BATCH = 500
GONE = "(gone)"  # the user of an emptied row; no account can have this name


_WHO: tuple[Any, ...] = (
    Audit.actor,
    Audit.subject,
    TrainingRun.requested_by,
    Review.actor,
    Erasure.actor,
    Setting.actor,
)
_WHY: tuple[Any, ...] = (
    Audit.reason,
    TrainingRun.reason,
    TrainingRun.outcome,
    Experiment.reason,
    Review.reason,
    Iteration.reason,
)


def existing(ids: Iterable[int]) -> set[int]:
    """Those of the ids that are in the log, with their texts."""
    found: set[int] = set()
    for some in chunked(sorted(ids), BATCH):
        rows: Any = Row.select(Row.id).where(Row.id.in_(some) & (Row.user != GONE))
        found.update(id_ for (id_,) in rows.tuples())
    return found


def remove(ids: Sequence[int]) -> None:
    """Delete these interactions; conversations that are empty then go, too. One batch at a time."""
    found: Any = Row.select(Row.conversation).where(Row.id.in_(ids)).distinct().tuples()
    conversations = [id_ for (id_,) in found]
    newest = Row.select(fn.MAX(Row.id)).scalar()
    digests.forget(ids)
    Review.delete().where(Review.interaction_id.in_(ids)).execute()
    Row.update(regenerates=None).where(Row.regenerates.in_(ids)).execute()
    if newest in ids:
        _empty(newest)
    Row.delete().where(Row.id.in_(ids) & (Row.id != newest)).execute()
    remove_conversations(conversations)


def remove_conversations(ids: Sequence[int]) -> None:
    """Delete those of the conversations that are empty; the others get a title of what is left."""
    for some in chunked(ids, BATCH):
        _remove_conversations(some)


def _remove_conversations(ids: Sequence[int]) -> None:
    newest = Conversation.select(fn.MAX(Conversation.id)).scalar()
    first: Any = Row.select(Row.conversation, fn.MIN(Row.id)).group_by(Row.conversation)
    left = dict(first.where(Row.conversation.in_(ids) & (Row.user != GONE)).tuples())
    emptied: Any = Row.select(Row.conversation).where(Row.user == GONE).tuples()
    kept = {newest, *(id_ for (id_,) in emptied)}
    for id_, row_id in left.items():
        prompt = Row.select(Row.prompt).where(Row.id == row_id).scalar()
        title = shorten(prompt, 60) or "New chat"
        Conversation.update(title=title).where(Conversation.id == id_).execute()
    empty = [id_ for id_ in ids if id_ not in left]
    nothing = {"user": GONE, "title": "", "external_id": None}
    for id_ in kept.intersection(empty):
        Conversation.update(nothing).where(Conversation.id == id_).execute()
    Conversation.delete().where(Conversation.id.in_([i for i in empty if i not in kept])).execute()


def remove_emptied() -> None:
    """Delete the emptied rows that newer ones have followed."""
    newest = Row.select(fn.MAX(Row.id)).scalar()
    emptied = (Row.user == GONE) & (Row.id != newest)
    ids: Any = Row.select(Row.id).where(emptied).tuples()
    digests.forget([id_ for (id_,) in ids])
    Row.delete().where(emptied).execute()
    found: Any = Conversation.select(Conversation.id).where(Conversation.user == GONE).tuples()
    remove_conversations([id_ for (id_,) in found])


def rename(name: str, alias: str) -> None:
    """Put an alias wherever a person is named as who acted, or as whom something was done to."""
    for column in _WHO:
        column.model.update({column: alias}).where(column == name).execute()
    for column in _WHY:
        _rename_within(column, name, alias)


def _rename_within(column: Any, name: str, alias: str) -> None:
    word = re.compile(rf"(?<![\w.@+-]){re.escape(name)}(?![\w@+-]|\.\w)")
    table: Any = column.model
    rows: Any = table.select(table.id, column).where(column.contains(name)).tuples()
    for id_, text in list(rows):
        if word.search(text):
            table.update({column: word.sub(alias, text)}).where(table.id == id_).execute()


def _empty(id_: int) -> None:
    Feedback.delete().where(Feedback.interaction == id_).execute()
    Reading.delete().where(Reading.interaction == id_).execute()
    nothing: dict[str, Any] = {
        "request_id": f"gone-{id_}",
        "user": GONE,
        "prompt": "",
        "answer": "",
        "status": Status.INTERRUPTED,
        "arm": Arm.DEFAULT,
        "experiment_id": None,
        "error": None,
        "quality": None,
        "scorer": None,
        "regenerates": None,
    }
    Row.update(nothing).where(Row.id == id_).execute()
