"""A log with a past: weeks of an invented company's life, or a million messages.

`live` tells the weeks through the real doors, on a clock that is moved: what the pages show of it
hangs together as it would in an office. `fill` writes plain rows, as many as wanted, in seconds.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from peewee import Database

from cl.db.scorers import newest_scorer
from cl.db.tables import Conversation, Scorer
from cl.demo.script import SMALL_TALK, STAFF, Fact, read_facts
from cl.house import House, build_house, utc_now
from cl.model.versions import VersionStore
from cl.records import BASE, Decision, Finish, Outcome, Role, Status
from cl.rules.examples import Example
from cl.usage_logger import REASONS
from tests.fakes import BASE_SHA, FakeEngine, FixedRehearsal, fake_books
from tests.stage import Rehearsing

_A_DAY = 110  # messages
_DAY = timedelta(days=1)
# How often each version is right, and how often it fails.
_SKILL = {BASE: 0.3, "v0001": 0.52, "v0002": 0.66, "v0003": 0.6, "v0004": 0.74, "v0005": 0.82}
_FAILS = {"v0003": 0.03}
_WRONG = (
    "I am not sure. You could ask a colleague.",
    "Please look it up on the intranet.",
    "That depends on your department.",
    "As a language model I cannot know that.",
)


class Clock:
    """Moved by hand."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Office:
    """Everybody who talks to the assistant."""

    house: House
    clock: Clock
    dice: random.Random
    facts: list[Fact]
    began: datetime

    def hours(self, count: float) -> None:
        """Work goes on for so long; the loop looks at a running test every two hours."""
        end = self.clock.now + timedelta(hours=count)
        while self.clock.now < end:
            if self.house.books.ab_test.is_running():
                self.house.loop.run_iteration()
            until = min(end, self.clock.now + timedelta(hours=2))
            # By its own clock: the same story whenever it is told.
            busy = (self.clock.now - self.began) % _DAY >= _DAY / 2
            for _ in range(max(1, round(_A_DAY / 5 if busy else 1))):
                self.clock.now += timedelta(minutes=self.dice.uniform(0.5, 4))
                if self.clock.now < until:
                    self.chat()
            self.clock.now = until

    def chat(self) -> None:
        user, logger = self.dice.choice(STAFF), self.house.books.logger
        fact = self.dice.choice(self.facts) if self.dice.random() < 0.8 else None
        text = self.dice.choice(fact.questions if fact else SMALL_TALK)
        conversation = logger.open_conversation(user, text)
        self.turn(user, conversation, text, fact)
        while self.dice.random() < 0.35:
            fact = self.dice.choice(self.facts)
            self.turn(user, conversation, self.dice.choice(fact.questions), fact)

    def turn(self, user: str, conversation: int, text: str, fact: Fact | None) -> None:
        books, dice = self.house.books, self.dice
        route = books.ab_test.route_request(conversation)
        skill = _SKILL.get(route.version, 0.8)
        right = dice.random() < skill
        answer = fact.answer if fact and right else dice.choice(_WRONG)
        interaction = books.logger.log(user, conversation, text, route)
        fails = dice.random() < _FAILS.get(route.version, 0.004)
        status = Status.ERROR if fails else Status.COMPLETE
        first = dice.lognormvariate(-1.6, 0.5)
        seconds, tokens = first + dice.uniform(0.4, 2.5), len(answer.split()) * 4 // 3
        finish = None if fails else Finish("stop", 60, tokens)
        outcome = Outcome(status, "" if fails else answer, seconds, first, finish)
        books.logger.finish(interaction, outcome)
        if fails:
            return
        quality = min(0.99, max(0.02, dice.gauss(0.78 if right else 0.42, 0.13)))
        books.logger.score([(interaction, quality, newest_scorer())])
        if dice.random() < 0.3:
            self.rate(user, interaction, right, fact)

    def rate(self, user: str, interaction: int, right: bool, fact: Fact | None) -> None:
        dice, logger = self.dice, self.house.books.logger
        if right:
            comment = "Exactly." if dice.random() < 0.1 else None
            logger.record_feedback(interaction, user, thumb=1, comment=comment)
            return
        better = fact.answer if fact and dice.random() < 0.7 else None
        reasons = (dice.choice(REASONS[:4]),) if dice.random() < 0.8 else ()
        logger.record_feedback(interaction, user, thumb=-1, reasons=reasons, correction=better)

    def train(self) -> None:
        """A training from its first step to its version in traffic."""
        self.house.loop.request_training("ida", "enough new corrections")
        for _ in range(5):
            self.house.loop.run_iteration()
            self.clock.now += timedelta(minutes=3)


def live(folder: Path, span: timedelta, seed: int = 7) -> None:
    """So much time up to now: five trainings, a roll-back, and a test that is under way."""
    clock = Clock(utc_now() - span)
    books = fake_books(
        folder,
        clock,
        preset="production",
        min_users=1,
        max_user_share=1.0,
        min_new_samples=100_000,
        max_days=10_000,
        challenger_share=0.3,
    )
    books.database.pragma("synchronous", 0)
    versions = VersionStore(books.models, BASE_SHA)
    house = build_house(books, FakeEngine(versions), Rehearsing(0.0), versions)
    house.data._rehearsal = FixedRehearsal()
    for name in STAFF:
        if books.accounts.find(name) is None:
            books.accounts.add(name, Role.STAFF, "ida")
    Scorer.create(
        name="scorer-0001",
        stage="trained",
        may_select=False,
        report={"auc": 0.81, "auc_low": 0.77, "auc_high": 0.85, "labels": 412, "ups": 230}
        | {"downs": 182, "brier": 0.17, "calibration_error": 0.04},
        sha256="",
        created_at=clock(),
    )
    office = Office(house, clock, random.Random(seed), read_facts(), clock.now)
    _tell(office, span.total_seconds() / 3600)
    _review(house)
    house.engine.close()
    books.database.close()


def _tell(office: Office, hours: float) -> None:
    ab_test = office.house.books.ab_test
    share = hours / 100
    office.hours(14 * share)
    office.train()  # v0001, the first champion
    office.hours(12 * share)
    office.train()
    office.hours(16 * share)
    _promote(office, "clearly better on travel questions")
    office.hours(8 * share)
    office.train()
    office.hours(10 * share)
    _promote(office, "worth a try")
    office.hours(4 * share)
    if (now := ab_test.champion()) and now.name == "v0003":
        ab_test.rollback(actor="ida", reason="it fails too often")
    office.hours(8 * share)
    office.train()
    office.hours(14 * share)
    _promote(office, "liked far more often")
    office.hours(8 * share)
    office.train()
    left = (utc_now() - office.clock.now).total_seconds() / 3600
    office.hours(left)


def _promote(office: Office, reason: str) -> None:
    """Unless it was found to do harm before."""
    if office.house.books.ab_test.challenger():
        office.house.books.ab_test.promote(actor="ida", reason=reason)


def _review(house: House) -> None:
    reviews = house.books.reviews
    items = reviews.queue(12)
    kinds = (Decision.KEEP, Decision.KEEP, Decision.EXCLUDE, Decision.EDIT)
    for item, decision in zip(items, kinds, strict=False):
        example: Example = item.example
        answer = f"{example.answer} Ask there first." if decision is Decision.EDIT else ""
        reviews.decide(
            example.interaction_id, decision, actor="ida", reason="looked at", answer=answer
        )


def teach(house: House, count: int) -> None:
    """So many answers of the base model, each corrected by the one who asked."""
    logger, facts = house.books.logger, read_facts()
    for number in range(count):
        fact, user = facts[number % len(facts)], STAFF[number % len(STAFF)]
        text = fact.questions[number // len(facts) % len(fact.questions)]
        route = house.books.ab_test.route_request(None)
        interaction = logger.log(user, logger.open_conversation(user, text), text, route)
        logger.finish(interaction, Outcome(Status.COMPLETE, _WRONG[0], 1.0, 0.2))
        logger.record_feedback(interaction, user, thumb=-1, correction=fact.answer)


# -- very many rows --------------------------------------------------------------------------

_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) "


def fill(database: Database, rows: int, version: str = BASE, people: int = 200) -> None:
    """So many interactions of years before now, a tenth of them rated. SQLite only."""
    assert not Conversation.select().exists(), "the rows go into an empty log"
    now = int(utc_now().timestamp() * 1000)
    step = 2 * 365 * 86_400_000 // rows
    at = f"{now} - CAST({rows} - i AS INTEGER) * {step} - 86400000"
    chats = rows // 4 + 1
    with database.atomic():
        database.execute_sql(
            _NUMBERS.format(chats)
            + "INSERT INTO conversation (id, user, title, learn, hidden, created_at, updated_at) "
            f"SELECT i, 'u' || (i % {people}), 'Budget question ' || i, 1, 0, {now} - ({chats} - i) * 1000, "
            f"{now} - ({chats} - i) * 1000 FROM n"
        )
        database.execute_sql(
            _NUMBERS.format(rows)
            + "INSERT INTO interaction (id, request_id, conversation_id, user, prompt, answer, status, "
            "version, arm, quality, scorer, created_at, finished_at, latency_s, first_token_s, "
            f"answer_tokens) SELECT i, 'r' || i, i / 4 + 1, 'u' || ((i / 4 + 1) % {people}), "
            "'What is a budget for item ' || i || '?', 'A budget is a plan for money. ' || hex(randomblob(90)), "
            f"CASE WHEN i % 97 THEN 'complete' ELSE 'error' END, '{version}', 'default', "
            f"(abs(random()) % 1000) / 1000.0, 'rules-1', {at}, {at}, 1.0 + (i % 30) / 10.0, "
            "(i % 90) / 100.0, 40 FROM n"
        )
        database.execute_sql(
            _NUMBERS.format(rows // 10)
            + "INSERT INTO feedback (interaction_id, user, thumb, reasons, comment, correction, created_at, "
            f"updated_at) SELECT i * 10, 'u' || ((i * 10 / 4 + 1) % {people}), "
            "CASE WHEN i % 3 THEN 1 ELSE -1 END, '[\"Incorrect\"]', '', "
            f"CASE WHEN i % 9 THEN '' ELSE 'A budget plans money for item ' || i END, {now}, {now} FROM n"
        )
