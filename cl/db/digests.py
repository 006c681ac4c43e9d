"""The log in numbers, without reading all of it: each block of it is added up once.

A block is a fixed range of interaction ids. Whoever changes an interaction forgets its block, in the
same transaction, and the next reader adds it up anew. The newest block, which grows, is never kept.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

from peewee import JOIN, Case, Database, PostgresqlDatabase, fn

from cl.db.tables import Digest, Feedback
from cl.db.tables import Interaction as Row
from cl.records import Status

SIZE = 5000  # ids in a block
_SEEN = ""  # the version of the row that says that a block has been looked at

_COLUMNS = (
    Digest.messages,
    Digest.answers,
    Digest.errors,
    Digest.scored,
    Digest.quality,
    Digest.ups,
    Digest.downs,
    Digest.corrections,
)


@dataclass(frozen=True)
class Numbers:
    """What the log holds, or what it holds of one version."""

    messages: int = 0  # whatever became of them
    answers: int = 0  # complete ones
    errors: int = 0
    scored: int = 0
    quality_sum: float = 0.0
    ups: int = 0
    downs: int = 0
    corrections: int = 0

    def __add__(self, other: "Numbers") -> "Numbers":
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Numbers(*(one + another for one, another in pairs))

    @property
    def quality(self) -> float | None:
        """The mean of the scored answers."""
        return self.quality_sum / self.scored if self.scored else None

    @property
    def rated(self) -> int:
        return self.ups + self.downs

    @property
    def liked(self) -> float | None:
        """The share of thumbs up among the thumbs."""
        return self.ups / self.rated if self.rated else None


def forget(interaction_ids: Iterable[int]) -> None:
    """These interactions change: call within the transaction that does it."""
    blocks = {id_ // SIZE for id_ in interaction_ids}
    if blocks:
        Digest.delete().where(Digest.block.in_(list(blocks))).execute()


def by_version(database: Database) -> dict[str, Numbers]:
    """The whole log, by the version that answered."""
    open_block = int(Row.select(fn.MAX(Row.id)).scalar() or 0) // SIZE
    known: Any = Digest.select(Digest.block).where(Digest.version == _SEEN).tuples()
    for block in sorted(set(range(open_block)) - {block for (block,) in known}):
        _add_up(database, block)
    sums = (fn.SUM(column) for column in _COLUMNS)
    kept: Any = Digest.select(Digest.version, *sums).where(Digest.version != _SEEN)
    found = {name: Numbers(*row) for name, *row in kept.group_by(Digest.version).tuples()}
    for name, *row in _read(open_block):
        found[name] = found.get(name, Numbers()) + Numbers(*row)
    return found


def _add_up(database: Database, block: int) -> None:
    with database.atomic():
        if isinstance(database, PostgresqlDatabase):
            # Who is changing one of these now would forget the block before it is kept.
            database.execute_sql("LOCK TABLE feedback, interaction IN SHARE MODE")
        rows = [(block, name, *row) for name, *row in _read(block)]
        columns = [Digest.block, Digest.version, *_COLUMNS]
        seen = (block, _SEEN, *astuple(Numbers()))
        Digest.insert_many([seen, *rows], columns).on_conflict_ignore().execute()


def _read(block: int) -> Iterable[tuple[Any, ...]]:
    """(version, *Numbers) of one block, from the log itself."""
    is_complete = Row.status == Status.COMPLETE
    query: Any = (
        Row.select(
            Row.version,
            fn.COUNT(Row.id),
            _count(is_complete),
            _count(Row.status == Status.ERROR),
            _count(is_complete & Row.quality.is_null(False)),
            fn.COALESCE(fn.SUM(Case(None, ((is_complete, Row.quality),), 0.0)), 0.0),
            _count(Feedback.thumb == 1),
            _count(Feedback.thumb == -1),
            _count(Feedback.correction != ""),
        )
        .join(Feedback, JOIN.LEFT_OUTER)
        .where(Row.id.between(block * SIZE, (block + 1) * SIZE - 1))
        .group_by(Row.version)
    )
    return list(query.tuples())


def _count(condition: Any) -> Any:
    return fn.SUM(Case(None, ((condition, 1),), 0))
