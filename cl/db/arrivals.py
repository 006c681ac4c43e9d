"""Writing histories from elsewhere, many at a time: a handful of statements a batch.

The caller holds the transaction. Everything is found again by its key, so a batch that comes a
second time, whole or in part, adds nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from peewee import JOIN, Case, chunked, fn

from cl.db import digests
from cl.db.tables import Conversation, Feedback
from cl.db.tables import Interaction as Row
from cl.records import Arm, Status
from cl.records import Feedback as Said
from cl.rules.exchange.placing import History, Place, Placing
from cl.rules.text import shorten

_AT_ONCE = 500  # rows or keys a statement; databases have a limit on values


def store(batch: Sequence[History], version: str, now: datetime) -> list[tuple[int, int]]:
    """Write what is new. Returns for each history how many rows it added and known ones it rated."""
    keys = [history.keys() for history in batch]
    placing = Placing(*_standing({k for some in keys for k in some}, {h.root for h in batch}))
    places = [placing.place(h, some) for h, some in zip(batch, keys, strict=True)]
    new = [place for some in places for place in some]
    _write_conversations(new, now)
    _write_rows(new, version, now)
    rated = _write_feedback(batch, keys, now) - {place.key for place in new}
    counts = []
    for some, known in zip(places, keys, strict=True):
        late = rated.intersection(known)
        rated -= late
        counts.append((len(some), len(late)))
    return counts


def _standing(keys: set[str], roots: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """In which conversations the known keys are, and what stands last in those and the roots."""
    homes: dict[str, str] = {}
    for some in chunked(keys, _AT_ONCE):
        query: Any = Row.select(Row.request_id, Conversation.external_id).join(Conversation)
        homes.update(query.where(Row.request_id.in_(some)).tuples())
    ends: dict[str, str] = {}
    for some in chunked({*homes.values(), *roots}, _AT_ONCE):
        last = Row.select(fn.MAX(Row.id)).join(Conversation).group_by(Row.conversation)
        last = last.where(Conversation.external_id.in_(some) & (Row.status == Status.COMPLETE))
        query = Row.select(Conversation.external_id, Row.request_id).join(Conversation)
        ends.update(query.where(Row.id.in_(last)).tuples())
    return homes, ends


def _write_conversations(places: Sequence[Place], now: datetime) -> None:
    first: dict[str, Place] = {}
    for place in places:
        first.setdefault(place.conversation, place)
    known = dict(_conversation_ids(first))
    _insert(
        Conversation,
        (
            {
                "user": place.user,
                "title": shorten(place.exchange.prompt, 60) or "Imported",
                "external_id": name,
                "learn": place.learn,
                "created_at": now,
                "updated_at": now,
            }
            for name, place in first.items()
            if name not in known
        ),
    )


def _write_rows(places: Sequence[Place], version: str, now: datetime) -> None:
    conversations = dict(_conversation_ids({place.conversation for place in places}))
    _insert(
        Row,
        (
            {
                "request_id": place.key,
                "conversation": conversations[place.conversation],
                "user": place.user,
                "prompt": place.exchange.prompt,
                "answer": place.exchange.answer,
                "status": place.exchange.status,
                "version": version,
                "arm": Arm.DEFAULT,
                "created_at": place.exchange.at or now,
                "finished_at": place.exchange.at or now,
            }
            for place in places
        ),
    )
    replaced = {place.key: place.regenerates for place in places if place.regenerates}
    ids = _row_ids({*replaced, *replaced.values()})
    for some in chunked(((ids[k], ids[other]) for k, other in replaced.items()), _AT_ONCE):
        answers = Case(Row.id, tuple(some))
        Row.update(regenerates=answers).where(Row.id.in_([k for k, _ in some])).execute()


def _write_feedback(batch: Sequence[History], keys: Sequence[list[str]], now: datetime) -> set[str]:
    """Returns the keys of the interactions that had no feedback and have some now."""
    said: dict[str, dict[str, Any]] = {}
    for history, some in zip(batch, keys, strict=True):
        for k, exchange in zip(some, history.exchanges, strict=True):
            feedback, at = exchange.feedback, exchange.at or now
            if feedback != Said() and k not in said:
                said[k] = {
                    "user": history.user,
                    "thumb": feedback.thumb,
                    "reasons": list(feedback.reasons),
                    "comment": feedback.comment,
                    "correction": feedback.correction,
                    "created_at": at,
                    "updated_at": at,
                }
    ids = _row_ids(said, without_feedback=True)
    _insert(Feedback, ({"interaction": number, **said[k]} for k, number in ids.items()))
    digests.forget(ids.values())
    return set(ids)


def _conversation_ids(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    for some in chunked(names, _AT_ONCE):
        query: Any = Conversation.select(Conversation.external_id, Conversation.id)
        yield from query.where(Conversation.external_id.in_(some)).tuples()


def _row_ids(keys: Iterable[str], without_feedback: bool = False) -> dict[str, int]:
    found: dict[str, int] = {}
    for some in chunked(keys, _AT_ONCE):
        query: Any = Row.select(Row.request_id, Row.id).where(Row.request_id.in_(some))
        if without_feedback:
            query = query.join(Feedback, JOIN.LEFT_OUTER).where(Feedback.id.is_null())
        found.update(query.tuples())
    return found


def _insert(table: Any, rows: Iterable[dict[str, Any]]) -> None:
    for some in chunked(rows, _AT_ONCE):
        table.insert_many(some).execute()
