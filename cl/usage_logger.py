"""UsageLogger: every message, its answer, and what people said of it.

A row is written when a message arrives and finished when its answer ends, so that a crash in
between leaves a row that says so. Writes conversation, interaction and feedback.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple, cast

from peewee import JOIN, Database, fn

from cl.db import arrivals, digests, observations
from cl.db.tables import Conversation as ConversationRow
from cl.db.tables import Feedback as FeedbackRow
from cl.db.tables import Interaction as Row
from cl.records import (
    IMPORTED,
    Arm,
    Conversation,
    Feedback,
    Interaction,
    Message,
    Outcome,
    Route,
    Status,
)
from cl.rules.examples import Turn, as_messages, standing, turns_before
from cl.rules.exchange.placing import History
from cl.rules.text import clean, shorten

REASONS = ("Incorrect", "Incomplete", "Not relevant", "Outdated", "Style or tone", "Unsafe")
MAX_TITLE, MAX_COMMENT, MAX_CORRECTION = 80, 2000, 8000
_PAGE = 500


_STANDING = (
    Row.id,
    Row.prompt,
    Row.answer,
    Row.status,
    Row.version,
    Row.arm,
    Row.experiment_id,
    Row.regenerates,
)


class Standing(NamedTuple):
    """What an answer in the making needs to know of a turn."""

    id: int
    prompt: str
    answer: str
    status: str
    version: str
    arm: str
    experiment_id: int | None
    regenerates: int | None


class UsageLogger:
    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._db = database
        self._now = clock

    # -- conversations ---------------------------------------------------------------------

    def at_once(self) -> AbstractContextManager[Any]:
        """What is written within is written together, or not at all."""
        return cast(AbstractContextManager[Any], self._db.atomic())

    def open_conversation(self, user: str, first_message: str) -> int:
        """A new conversation, named after its first message. Returns its id."""
        now = self._now()
        title = shorten(clean(first_message), 60) or "New chat"
        row = ConversationRow.create(user=user, title=title, created_at=now, updated_at=now)
        return int(row.id)

    def conversations(self, user: str, search: str = "", limit: int = 200) -> list[Conversation]:
        """A person's conversations, the latest first; those that hold the words, if any are given."""
        rows = ConversationRow.select().where(_own(user))
        if words := clean(search).strip():
            said = Row.prompt.contains(words) | Row.answer.contains(words)
            of_it = Row.select(Row.id).where((Row.conversation == ConversationRow.id) & said)
            rows = rows.where(ConversationRow.title.contains(words) | fn.EXISTS(of_it))
        rows = rows.order_by(ConversationRow.updated_at.desc(), ConversationRow.id.desc()).limit(
            limit
        )
        return [Conversation(row.id, row.title, row.updated_at, row.learn) for row in rows]

    def may_learn(self, user: str, conversation_id: int) -> bool:
        """Whether this chat of one's own may be learned from. Raises LookupError."""
        own = _own(user, conversation_id)
        found: Any = ConversationRow.select(ConversationRow.learn).where(own).tuples().first()
        if found is None:
            raise LookupError(f"You have no conversation {conversation_id}.")
        return bool(found[0])

    def set_learning(self, user: str, conversation_id: int, learn: bool) -> None:
        """Whether this chat of one's own may be learned from.

        Raises LookupError for an id that is unknown or somebody else's; the two look the same.
        """
        self._change(user, conversation_id, learn=learn)

    def rename(self, user: str, conversation_id: int, title: str) -> None:
        """Call one's own conversation by another name. Raises ValueError for none, LookupError."""
        title = shorten(clean(title).strip(), MAX_TITLE)
        if not title:
            raise ValueError("Write a name for this chat.")
        self._change(user, conversation_id, title=title)

    def hide(self, user: str, conversation_id: int) -> None:
        """Take one's own conversation out of sight; nothing more is learned from it.

        The log keeps it until its time is over. Raises LookupError.
        """
        self._change(user, conversation_id, hidden=True, learn=False)

    def _change(self, user: str, conversation_id: int, **values: Any) -> None:
        changed = ConversationRow.update(values).where(_own(user, conversation_id)).execute()
        if changed != 1:
            raise LookupError(f"You have no conversation {conversation_id}.")

    def private(self) -> set[int]:
        """The conversations that are not to be learned from."""
        rows: Any = ConversationRow.select(ConversationRow.id).where(~ConversationRow.learn)
        return {id_ for (id_,) in rows.tuples()}

    def history(self, user: str, conversation_id: int) -> list[Interaction]:
        """The interactions of one's own conversation as it stands, in order.

        Raises LookupError for an id that is unknown or somebody else's; the two look the same.
        """
        query = _joined().where(_within(user, conversation_id)).order_by(Row.id)
        if not (found := [_record(row) for row in query]):
            self._require_own(user, conversation_id)
        return standing(found)

    def turns(self, user: str, conversation_id: int) -> list[Standing]:
        """All turns of it, also replaced ones, as far as an answer in the making needs to know."""
        within = _within(user, conversation_id)
        found: Any = Row.select(*_STANDING).where(within).order_by(Row.id)
        turns = [Standing(*row) for row in found.tuples()]
        if not turns:
            self._require_own(user, conversation_id)
        return turns

    def context(self, conversation_id: int, before_id: int | None = None) -> list[Message]:
        """The complete turns of a conversation (before one interaction), as a model is shown them."""
        rows: Any = Row.select(Row.id, Row.prompt, Row.answer, Row.status, Row.regenerates)
        rows = rows.where(Row.conversation == conversation_id)
        before = self.last_id() + 1 if before_id is None else before_id
        turns = (Turn(*turn) for turn in rows.where(Row.id < before).order_by(Row.id).tuples())
        replaced = Row.select(Row.regenerates).where(Row.id == before).scalar()
        return as_messages(turns_before(turns, before, replaced))

    def _require_own(self, user: str, conversation_id: int) -> None:
        if not ConversationRow.select().where(_own(user, conversation_id)).exists():
            raise LookupError(f"You have no conversation {conversation_id}.")

    # -- the life of an interaction --------------------------------------------------------

    def log(
        self,
        user: str,
        conversation_id: int,
        prompt: str,
        route: Route,
        request_id: str | None = None,
        regenerates: int | None = None,
    ) -> int:
        """Write the row of a message that has just arrived. Returns its id.

        The same `request_id` again gives the same row: a repeated call logs nothing twice.
        """
        now = self._now()
        with self._db.atomic():
            known = Row.get_or_none(Row.request_id == request_id) if request_id else None
            if known:
                return int(known.id)
            row = Row.create(
                request_id=request_id or secrets.token_hex(16),
                conversation=conversation_id,
                user=user,
                prompt=clean(prompt),
                status=Status.STARTED,
                version=route.version,
                arm=route.arm,
                experiment_id=route.experiment_id,
                regenerates=regenerates,
                created_at=now,
            )
            ConversationRow.update(updated_at=now).where(
                ConversationRow.id == conversation_id
            ).execute()
        return int(row.id)

    def finish(self, interaction_id: int, outcome: Outcome) -> None:
        """Complete the row: answer, status and timings. Its quality is scored in the background."""
        finish = outcome.finish
        values: dict[str, Any] = {
            "answer": clean(outcome.answer),
            "status": outcome.status,
            "finished_at": self._now(),
            "latency_s": outcome.latency_s,
            "first_token_s": outcome.first_token_s,
            "error": outcome.error,
        }
        if outcome.answered_by:  # in the stead of the version that was to
            values |= {"failed": Row.version, "version": outcome.answered_by}
        if finish:
            values |= {
                "queue_s": finish.queue_s,
                "prompt_tokens": finish.prompt_tokens,
                "answer_tokens": finish.answer_tokens,
                "finish_reason": finish.reason,
            }
        # Only once: a late second writer must not change what people have read and rated.
        is_open = (Row.id == interaction_id) & (Row.status == Status.STARTED)
        with self._db.atomic():
            if Row.update(values).where(is_open).execute():
                observations.note(interaction_id)
                digests.forget([interaction_id])
            elif not Row.select().where(Row.id == interaction_id).exists():
                raise LookupError(f"There is no interaction {interaction_id}.")

    def unscored(self, limit: int) -> list[tuple[int, int | None]]:
        """(id, experiment) of complete answers without a quality, the newest first: a queue."""
        waiting = Row.quality.is_null() & (Row.status == Status.COMPLETE)
        rows: Any = Row.select(Row.id, Row.experiment_id).where(waiting)
        return list(rows.order_by(Row.id.desc()).limit(limit).tuples())

    def score(self, scores: Iterable[tuple[int, float, str]]) -> None:
        """Store (id, quality, scorer) of answers that have no quality yet; scored once, for ever."""
        with self._db.atomic():
            scored = []
            for id_, quality, scorer in scores:
                is_unscored = (Row.id == id_) & Row.quality.is_null()
                if Row.update(quality=quality, scorer=scorer).where(is_unscored).execute():
                    scored.append(id_)
            observations.note(*scored)
            digests.forget(scored)

    def interrupt_unfinished(self) -> int:
        """Mark answers that no living process is writing any more. Call once, at start."""
        ended = {"status": Status.INTERRUPTED, "finished_at": self._now()}
        is_open = Row.status == Status.STARTED
        with self._db.atomic():
            found: Any = Row.select(Row.id).where(is_open).tuples()
            digests.forget([id_ for (id_,) in found])
            return int(Row.update(ended).where(is_open).execute())

    # -- histories from elsewhere ------------------------------------------------------------

    def checked(self, feedback: Feedback) -> Feedback:
        """This feedback as it may be stored. Raises ValueError for what a person could not say."""
        values = _checked(feedback.thumb, feedback.reasons, feedback.comment, feedback.correction)
        return Feedback(**{**values, "reasons": tuple(values["reasons"])})

    def add_imported(self, batch: Sequence[History]) -> list[tuple[int, int]]:
        """Store histories that took place elsewhere, all or nothing. What is known stays as it is.

        Returns for each how many interactions it added, and how many known ones without feedback
        it had some for.
        """
        with self._db.atomic():
            return arrivals.store(batch, IMPORTED, self._now())

    # -- feedback --------------------------------------------------------------------------

    def record_feedback(
        self,
        interaction_id: int,
        user: str,
        *,
        thumb: int | None = None,
        reasons: tuple[str, ...] | None = None,
        comment: str | None = None,
        correction: str | None = None,
    ) -> Feedback:
        """Store what a person says of an answer they got; what is left None stays as it was.

        Thumb 0 withdraws. Raises LookupError for an id that is unknown or somebody else's, and
        ValueError for a thumb other than +1, -1, 0, an unknown reason, a text that is too long,
        or an answer that is still being written.
        """
        values = _checked(thumb, reasons, comment, correction)
        now = self._now()
        with self._db.atomic():
            mine = (Row.id == interaction_id) & (Row.user == user) & _own(user)
            row = Row.select().join(ConversationRow).where(mine).first()
            if row is None:
                raise LookupError(f"You have no answer {interaction_id} to give feedback on.")
            if row.status == Status.STARTED:
                raise ValueError("This answer is still being written.")
            known = FeedbackRow.get_or_none(FeedbackRow.interaction == interaction_id)
            if known is None:
                known = FeedbackRow.create(
                    interaction=interaction_id, user=user, created_at=now, updated_at=now, **values
                )
            else:
                FeedbackRow.update(updated_at=now, **values).where(
                    FeedbackRow.id == known.id
                ).execute()
                known = FeedbackRow.get_by_id(known.id)
            if thumb is not None:
                observations.note(interaction_id)
            digests.forget([interaction_id])
            return Feedback(known.thumb, tuple(known.reasons), known.comment, known.correction)

    # -- reading ---------------------------------------------------------------------------

    def get_records(
        self,
        after_id: int = 0,
        *,
        up_to_id: int | None = None,
        version: str | None = None,
        user: str | None = None,
        with_feedback: bool = False,
    ) -> Iterator[Interaction]:
        """Interactions in order of their ids, read page by page: any log fits in memory."""
        while True:
            query = _joined().where(Row.id > after_id).order_by(Row.id).limit(_PAGE)
            if up_to_id is not None:
                query = query.where(Row.id <= up_to_id)
            if version is not None:
                query = query.where(Row.version == version)
            if user is not None:
                query = query.where(Row.user == user)
            if with_feedback:
                query = query.where(FeedbackRow.id.is_null(False))
            page = [_record(row) for row in query]
            yield from page
            if len(page) < _PAGE:
                return
            after_id = page[-1].id

    def last_id(self) -> int:
        """The highest interaction id, 0 for an empty log."""
        return int(Row.select(fn.MAX(Row.id)).scalar() or 0)


def _checked(
    thumb: int | None, reasons: tuple[str, ...] | None, comment: str | None, correction: str | None
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if thumb is not None:
        if isinstance(thumb, bool) or thumb not in (1, -1, 0):
            raise ValueError(f"A thumb is +1, -1 or 0 (withdrawn), not {thumb!r}.")
        values["thumb"] = thumb
    if reasons is not None:
        unknown = [reason for reason in reasons if reason not in REASONS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not one of the reasons: {', '.join(REASONS)}.")
        values["reasons"] = list(dict.fromkeys(reasons))
    for name, text, limit in (
        ("comment", comment, MAX_COMMENT),
        ("correction", correction, MAX_CORRECTION),
    ):
        if text is None:
            continue
        values[name] = clean(text).strip()
        if len(values[name]) > limit:
            raise ValueError(
                f"The {name} has {len(values[name])} characters; at most {limit} are kept."
            )
    return values


def _own(user: str, conversation_id: int | None = None) -> Any:
    """A person's conversations, or one of them; deleted ones are nobody's."""
    own = (ConversationRow.user == user) & ~ConversationRow.hidden
    return own if conversation_id is None else own & (ConversationRow.id == conversation_id)


def _within(user: str, conversation_id: int) -> Any:
    """The interactions of one's own conversation."""
    own = ConversationRow.select(ConversationRow.id).where(_own(user, conversation_id))
    return Row.conversation.in_(own) & (Row.user == user)


def _joined() -> Any:
    return Row.select(Row, FeedbackRow).join(FeedbackRow, JOIN.LEFT_OUTER, attr="said")


def _record(row: Any) -> Interaction:
    said = getattr(row, "said", None)
    record = Interaction(
        id=row.id,
        user=row.user,
        conversation_id=row.conversation_id,
        prompt=row.prompt,
        answer=row.answer,
        status=Status(row.status),
        version=row.version,
        arm=Arm(row.arm),
        created_at=row.created_at,
        experiment_id=row.experiment_id,
        quality=row.quality,
        scorer=row.scorer,
        latency_s=row.latency_s,
        first_token_s=row.first_token_s,
        answer_tokens=row.answer_tokens,
        finish_reason=row.finish_reason,
        error=row.error,
        regenerates=row.regenerates,
    )
    if said is None or said.id is None:
        return record
    return replace(
        record, feedback=Feedback(said.thumb, tuple(said.reasons), said.comment, said.correction)
    )
