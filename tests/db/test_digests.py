"""The log in numbers: always those of a count of all rows, whatever changed, and read in blocks."""

import random
from collections import defaultdict

import pytest

from cl.db import digests, removal
from cl.db.digests import Numbers
from cl.db.tables import Digest, Feedback, Interaction
from cl.house import Books
from cl.records import BASE, Arm, Outcome, Route, Status
from tests.fakes import answered


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "SIZE", 4)


def counted() -> dict[str, Numbers]:
    """The slow way."""
    found: dict[str, Numbers] = defaultdict(Numbers)
    said = {f.interaction_id: f for f in Feedback.select()}
    for row in Interaction.select():
        complete = row.status == Status.COMPLETE
        quality = row.quality if complete and row.quality is not None else None
        feedback = said.get(row.id, Feedback())
        found[row.version] += Numbers(
            messages=1,
            answers=complete,
            errors=row.status == Status.ERROR,
            scored=quality is not None,
            quality_sum=quality or 0.0,
            ups=feedback.thumb == 1,
            downs=feedback.thumb == -1,
            corrections=feedback.correction != "",
        )
    return dict(found)


def read(books: Books) -> dict[str, Numbers]:
    found = digests.by_version(books.database)
    return {name: numbers for name, numbers in found.items() if numbers.messages}


def same(books: Books) -> bool:
    found, slow = read(books), counted()
    return found.keys() == slow.keys() and all(
        pytest.approx(vars(slow[name])) == vars(found[name]) for name in slow
    )


def test_an_empty_log_has_no_numbers(books: Books) -> None:
    assert digests.by_version(books.database) == {}


class Life:
    """What happens to a log, at random."""

    def __init__(self, books: Books, dice: random.Random) -> None:
        self.books, self.logger, self.dice = books, books.logger, dice
        self.talk = books.logger.open_conversation("ana", "Q")
        self.waiting: list[int] = []

    def say(self) -> None:
        route = Route(self.dice.choice([BASE, "v0001"]), Arm.DEFAULT)
        self.waiting.append(self.logger.log("ana", self.talk, "Q?", route))

    def finish(self) -> None:
        ends = (Status.COMPLETE, Status.COMPLETE, Status.ERROR, Status.CANCELLED)
        for id_ in self.waiting[:1]:
            self.waiting.remove(id_)
            self.logger.finish(id_, Outcome(self.dice.choice(ends), "A", 1.0))

    def rate(self) -> None:
        done = [r.id for r in Interaction.select().where(Interaction.status != Status.STARTED)]
        for id_ in self.dice.sample(done, min(1, len(done))):
            thumb, better = self.dice.choice([1, -1, 0]), self.dice.choice(["", "B"])
            self.logger.record_feedback(id_, "ana", thumb=thumb, correction=better)

    def score(self) -> None:
        self.logger.score((id_, self.dice.random(), "s") for id_, _ in self.logger.unscored(2))

    def remove(self) -> None:
        ids = [row.id for row in Interaction.select()]
        with self.books.database.atomic():
            removal.remove(self.dice.sample(ids, min(2, len(ids))))
            removal.remove_emptied()
        self.waiting = [row.id for row in Interaction.select() if row.id in self.waiting]


def test_whatever_happens_to_the_log_the_numbers_are_those_of_its_rows(books: Books) -> None:
    dice = random.Random(3)
    life = Life(books, dice)
    events = [life.say, life.finish, life.rate, life.score, life.remove]
    for _ in range(200):
        dice.choices(events, [8, 8, 5, 4, 1])[0]()
        assert same(books)
    books.logger.interrupt_unfinished()
    assert same(books)


def test_a_block_that_is_over_is_read_once(books: Books) -> None:
    for number in range(11):
        answered(books, f"Q{number}", "A")
    read(books)
    assert {row.block for row in Digest.select()} == {0, 1}
    Interaction.update(version="other").execute()  # behind its back
    assert set(digests.by_version(books.database)) == {BASE, "other"}
    digests.forget([1, 5])
    assert set(digests.by_version(books.database)) == {"other"}


def test_numbers_of_nothing_rated_have_no_share(books: Books) -> None:
    assert Numbers().liked is None
    assert Numbers().quality is None
    assert Numbers(ups=3, downs=1).liked == 0.75
