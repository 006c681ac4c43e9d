"""Reviews: what admins decide about examples before anything is learned from them.

A decision is remembered by content (`Example.key`), not by interaction: the same turns, question
and answer, said in another chat or next year, are decided already. Writes review.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from peewee import Database, IntegrityError, chunked, fn

from cl.db import audit, candidates
from cl.db.tables import Feedback
from cl.db.tables import Review as Row
from cl.records import Decision, Reviewed
from cl.rules import review_order
from cl.rules.examples import Example
from cl.rules.review_order import Draw, ReviewItem
from cl.rules.text import clean
from cl.usage_logger import MAX_CORRECTION

_PAGE = 100  # examples in one transaction
REACH = 2000  # ratings; older ones have had their chance
MAX_REASON = 300
MOST_AT_ONCE = 1000  # examples excluded together


class Changed(ValueError):
    """The world is not as it was shown to the one who decided."""


class Reviews:
    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._db = database
        self._now = clock

    # -- deciding --------------------------------------------------------------------------

    def decide(
        self,
        interaction_id: int,
        decision: str,
        *,
        actor: str,
        reason: str = "",
        prompt: str = "",
        answer: str = "",
        expected_key: str | None = None,
        only_first: bool = False,
    ) -> Reviewed:
        """Keep, exclude or edit the example of an interaction; a later decision replaces this one.

        An edit gives the answer to learn, and the question where that changes, too. Raises Changed
        when the example is not the `expected_key` any more, or somebody decided already and this
        was to be the first decision; LookupError for an unknown interaction; and ValueError for
        what can never become an example.
        """
        decision, reason = _decision(decision), _reason(reason)
        with self._db.atomic():
            example = self.example(interaction_id)
            if example is None:
                raise LookupError(f"There is no interaction {interaction_id}.")
            if problem := review_order.learnable(example):
                raise ValueError(problem)
            if expected_key not in (None, example.key):
                raise Changed("The state has changed: this is not the same answer any more.")
            edited = {"prompt": "", "answer": ""}
            if decision is Decision.EDIT:
                edited = _edited(example, prompt, answer)
                decision = Decision.EDIT if edited["answer"] else Decision.KEEP
            now = self._now()
            values = {
                "decision": decision,
                "interaction_id": interaction_id,
                "user": example.user,
                "actor": actor,
                "reason": reason,
                "at": now,
                **edited,
            }
            self._store(example.key, values, only_first)
            subject = f"interaction {interaction_id}"
            audit.record(now, actor, f"review {decision}", subject, reason)
            return _reviewed(Row.get(Row.key == example.key))

    def _store(self, key: str, values: dict[str, Any], only_first: bool) -> None:
        if not only_first:
            Row.insert(key=key, **values).on_conflict(
                conflict_target=[Row.key], update=values
            ).execute()
            return
        try:
            Row.create(key=key, **values)
        except IntegrityError:
            raise Changed("The state has changed: somebody has decided this already.") from None

    def exclude_all(self, ids: Sequence[int], *, actor: str, reason: str = "") -> int:
        """Exclude the examples of these interactions that wait for a decision. Returns how many."""
        reason, done = _reason(reason), 0
        for some in chunked(ids, _PAGE):
            with self._db.atomic():
                examples = self._waiting(candidates.by_id(some).values())
                rows = [
                    {
                        "key": example.key,
                        "decision": Decision.EXCLUDE,
                        "interaction_id": example.interaction_id,
                        "user": example.user,
                        "actor": actor,
                        "reason": reason,
                        "at": self._now(),
                    }
                    for example in examples
                ]
                if rows:
                    Row.insert_many(rows).on_conflict_ignore().execute()
                    subject = f"{len(rows)} interactions from {rows[0]['interaction_id']}"
                    audit.record(self._now(), actor, "review exclude all", subject, reason)
                done += len(rows)
        return done

    def withdraw(self, key: str, actor: str, reason: str = "") -> None:
        """Forget a decision: the example waits again. Raises LookupError when there is none."""
        reason = _reason(reason)
        with self._db.atomic():
            row = Row.get_or_none(Row.key == key)
            if row is None:
                raise LookupError("There is no such decision any more.")
            row.delete_instance()
            subject = f"interaction {row.interaction_id}"
            audit.record(self._now(), actor, "review withdraw", subject, reason)

    # -- reading ---------------------------------------------------------------------------

    def decisions(self) -> dict[str, Reviewed]:
        """Every decision, by the key of the example it is about."""
        return {row.key: _reviewed(row) for row in Row.select()}

    def queue(self, limit: int = 50, seed: int = 0) -> list[ReviewItem]:
        """What waits for a decision among the latest `REACH` ratings, in the order to look at it."""
        keys: Any = Row.select(Row.key).tuples()
        items = review_order.waiting(_latest(), {key for (key,) in keys})
        now = self._now()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        today = Row.select().where(Row.at >= midnight).count()
        return review_order.in_order(items, limit, Draw(seed, now.date(), today))

    def example(self, interaction_id: int) -> Example | None:
        """The example of an interaction as it is now."""
        return candidates.by_id([interaction_id]).get(interaction_id)

    def examples(self, ids: Sequence[int]) -> dict[int, Example]:
        """The same of many; unknown ones are left out."""
        return candidates.by_id(ids)

    def decided_of(self, examples: Iterable[Example]) -> dict[int, Decision]:
        """What was decided of these, by interaction; those that wait are left out."""
        keys = {example.interaction_id: example.key for example in examples}
        found: Any = Row.select(Row.key, Row.decision).where(Row.key.in_(list(keys.values())))
        decided = dict(found.tuples())
        return {id_: Decision(decided[key]) for id_, key in keys.items() if key in decided}

    def undecided(self, ids: Iterable[int]) -> list[int]:
        """Those of these interactions whose examples wait for a decision, at most MOST_AT_ONCE."""
        found: list[int] = []
        for some in chunked(ids, _PAGE):
            examples = candidates.by_id(some)
            ordered = (examples[id_] for id_ in some if id_ in examples)
            found += [example.interaction_id for example in self._waiting(ordered)]
            if len(found) >= MOST_AT_ONCE:
                break
        return found[:MOST_AT_ONCE]

    def _waiting(self, examples: Iterable[Example]) -> list[Example]:
        """Those that can be learned and that nobody has decided on, each content once."""
        able = {e.key: e for e in examples if not review_order.learnable(e)}
        decided = self.decided_of(able.values())
        return [example for example in able.values() if example.interaction_id not in decided]

    def decided(self, limit: int = 50) -> list[tuple[Reviewed, Example | None]]:
        """The latest decisions, each with its example as it is now, to look at or to undo."""
        rows = list(Row.select().order_by(Row.at.desc(), Row.id.desc()).limit(limit))
        examples = candidates.by_id([row.interaction_id for row in rows if row.interaction_id])
        return [(_reviewed(row), examples.get(row.interaction_id or 0)) for row in rows]

    def counts(self) -> dict[Decision, int]:
        """How many decisions there are of each kind."""
        found: Any = Row.select(Row.decision, fn.COUNT(Row.id)).group_by(Row.decision).tuples()
        counted = Counter({Decision(name): n for name, n in found})
        return {decision: counted[decision] for decision in Decision}


def _latest() -> list[Example]:
    """The latest ratings, read from the newest back."""
    newest = int(Feedback.select(fn.MAX(Feedback.interaction)).scalar() or 0)
    found: list[Example] = []
    for page in candidates.newest_first(candidates.RATED | candidates.CORRECTED, newest):
        found += page
        if len(found) >= REACH:
            break
    return found[:REACH]


def _decision(name: str) -> Decision:
    try:
        return Decision(name)
    except ValueError:
        known = ", ".join(Decision)
        raise ValueError(f"A decision is one of {known}, not {name!r}.") from None


def _reason(text: str) -> str:
    return _limited("reason", text, MAX_REASON)


def _edited(example: Example, prompt: str, answer: str) -> dict[str, str]:
    """The texts of an edit; empty ones when they are what the example says anyway."""
    answer = _limited("answer", answer, MAX_CORRECTION)
    prompt = _limited("question", prompt, MAX_CORRECTION) or example.prompt
    if not answer:
        raise ValueError("An edit needs an answer.")
    if (prompt, answer) == (example.prompt.strip(), example.answer.strip()):
        return {"prompt": "", "answer": ""}
    return {"prompt": prompt, "answer": answer}


def _limited(name: str, text: str, limit: int) -> str:
    text = clean(text).strip()
    if len(text) > limit:
        raise ValueError(f"The {name} has {len(text)} characters; at most {limit} are kept.")
    return text


def _reviewed(row: Any) -> Reviewed:
    return Reviewed(
        key=row.key,
        decision=Decision(row.decision),
        prompt=row.prompt,
        answer=row.answer,
        actor=row.actor,
        reason=row.reason,
        at=row.at,
        interaction_id=row.interaction_id,
    )
