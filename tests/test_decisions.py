"""Who decides, what is stopped at once, what is watched afterwards, and every look repeated."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cl.ab_test import ABTestManager, Refused
from cl.db.tables import Audit, Check, Experiment, Interaction, Observation, Version
from cl.house import Books, House
from cl.model.engine.contract import EngineError
from cl.records import BASE, Arm, Comparison, Outcome, Stage, State, Status
from cl.settings import ExperimentLimits
from tests.fakes import FakeClock, talk

LIMITS = ExperimentLimits(
    decision_mode="auto",
    challenger_share=0.5,
    min_test_samples=20,
    min_test_conversations=20,
)


@pytest.fixture
def ab_test(books: Books) -> ABTestManager:
    """v0001 is champion, v0002 its challenger."""
    books.ab_test._limits = lambda: LIMITS
    for name in ("v0001", "v0002"):
        books.ab_test.register(name, parent=BASE, run_id=None, sha256="x")
        books.ab_test.deploy_challenger(name)
    return books.ab_test


def answer(books: Books, version: str, *, status: Status = Status.COMPLETE, thumb: int = 0) -> int:
    """An answer of this version, in a conversation of its own. Returns its interaction."""
    while True:
        conversation = books.logger.open_conversation("ana", "Q")
        route = books.ab_test.route_request(conversation)
        if route.version == version:
            break
    interaction = books.logger.log("ana", conversation, "What is a budget?", route)
    books.logger.finish(interaction, Outcome(status, "A plan for money.", 1.0, 0.2))
    if thumb:
        books.logger.record_feedback(interaction, "ana", thumb=thumb)
    return interaction


def traffic(books: Books, count: int, **thumbs: int) -> None:
    for number in range(count):
        for version in ("v0001", "v0002"):
            # Now and then the other way round: without any variance there is no evidence.
            thumb = thumbs.get(version, 0) * (-1 if number % 9 == 8 else 1)
            answer(books, version, thumb=thumb)
    while books.scoring.score_pending():
        pass


def seen(found: Comparison | None) -> Comparison:
    assert found is not None
    return found


def mode(ab_test: ABTestManager, name: str) -> None:
    limits = replace(ab_test._limits(), decision_mode=name)
    ab_test._limits = lambda: limits


# -- who decides ---------------------------------------------------------------------------


@pytest.fixture
def better(ab_test: ABTestManager, books: Books, clock: FakeClock) -> ABTestManager:
    """The challenger is better beyond doubt."""
    traffic(books, 60, v0001=-1, v0002=1)
    clock.skip(49)
    return ab_test


def test_by_itself_a_verdict_is_carried_out(better: ABTestManager) -> None:
    found = seen(better.auto_promote())
    assert (found.decision, found.reason, found.acted) == ("promote", "better", True)
    assert better.state() is State.NEW_CHAMPION
    assert Check.get().acted


def test_with_approval_it_waits_for_an_admin(better: ABTestManager) -> None:
    mode(better, "approve")
    for _ in range(2):
        found = seen(better.auto_promote())
        assert (found.decision, found.acted) == ("promote", False)
    assert better.state() is State.TESTING
    better.promote(actor="ana", reason="yes", expected="v0002")
    assert better.state() is State.NEW_CHAMPION


def test_in_a_dry_run_nothing_is_done_not_even_against_harm(
    ab_test: ABTestManager, books: Books
) -> None:
    mode(ab_test, "dry_run")
    for _ in range(20):
        answer(books, "v0002", status=Status.ERROR)
        answer(books, "v0001")
    assert ab_test.guard() is None
    found = seen(ab_test.auto_promote())
    assert (found.decision, found.reason, found.acted) == ("retire", "guardrail_error", False)
    assert ab_test.state() is State.TESTING


def test_who_decides_is_not_frozen_with_the_rest(better: ABTestManager) -> None:
    mode(better, "dry_run")
    assert not seen(better.auto_promote()).acted
    mode(better, "auto")
    assert seen(better.auto_promote()).acted


def test_a_test_from_before_there_was_a_rule_to_choose_keeps_the_plain_one(
    ab_test: ABTestManager, books: Books, clock: FakeClock
) -> None:
    experiment = Experiment.get()
    limits = {k: v for k, v in experiment.limits.items() if not k.startswith("decision")}
    Experiment.update(limits=limits).execute()
    traffic(books, 20, v0001=1, v0002=1)
    clock.skip(49)
    assert seen(ab_test.auto_promote()).reason == "undecided"  # the plain rule's word for +0 %


# -- what does harm ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "approve"])
def test_a_burst_of_errors_is_stopped_between_the_hourly_looks(
    ab_test: ABTestManager, books: Books, name: str
) -> None:
    mode(ab_test, name)
    for _ in range(10):
        answer(books, "v0001")
    assert ab_test.guard() is None
    assert not Check.select().exists()  # a quiet look leaves no trace
    errors = 0
    while ab_test.guard() is None:
        answer(books, "v0002", status=Status.ERROR)
        errors += 1
    assert errors <= 6
    assert ab_test.state() is State.CHAMPION
    assert {ab_test.route_request(n).version for n in range(50)} == {"v0001"}
    check = Check.get()
    assert (check.reason, check.acted) == ("guardrail_error", True)
    assert Experiment.get().reason == "v0002 fails far more often than v0001."


def test_what_happens_after_the_end_changes_no_evidence(
    ab_test: ABTestManager, books: Books
) -> None:
    late = answer(books, "v0002")
    ab_test.retire(actor="ana", reason="worse")
    count = Observation.select().count()
    books.logger.record_feedback(late, "ana", thumb=1)
    assert Observation.select().count() == count


def test_only_the_scorer_the_test_began_with_counts(ab_test: ABTestManager, books: Books) -> None:
    scorer = Experiment.get().scorer
    for name, scored in ((scorer, 1), ("scorer-9999", 0)):
        interaction = answer(books, "v0002")
        before = seen(ab_test.compare_models()).challenger.scored
        books.logger.score([(interaction, 0.8, name)])
        assert seen(ab_test.compare_models()).challenger.scored - before == scored


def test_another_process_sees_the_same(
    ab_test: ABTestManager, books: Books, clock: FakeClock
) -> None:
    other = ABTestManager(books.database, lambda: LIMITS, clock)
    for manager in (ab_test, other, ab_test):
        answer(books, "v0001", thumb=1)
        answer(books, "v0002", thumb=-1)
        assert seen(manager.compare_models()).champion.rated == Check.select().count()


# -- the watch after a promotion -----------------------------------------------------------


@pytest.fixture
def promoted(ab_test: ABTestManager) -> ABTestManager:
    ab_test.promote(actor="ana", reason="better")
    return ab_test


def test_the_old_champion_keeps_a_share_for_a_while(
    promoted: ABTestManager, clock: FakeClock
) -> None:
    routes = [promoted.route_request(n) for n in range(1000)]
    assert 60 <= sum(r.version == "v0001" for r in routes) <= 140
    assert promoted.in_traffic() == {"v0001", "v0002"}
    clock.skip(47)
    assert seen(promoted.auto_promote()).reason == "watching"
    clock.skip(2)
    found = seen(promoted.auto_promote())
    assert (found.decision, found.reason, found.acted) == ("keep", "no_harm", True)
    assert {promoted.route_request(n).version for n in range(50)} == {"v0002"}
    assert promoted.state() is State.NEW_CHAMPION
    assert not promoted.is_running()
    last = Audit.select().order_by(Audit.id.desc()).first()
    assert (last.actor, last.action, last.subject) == ("loop", "keep", "v0002")


def test_a_new_champion_that_fails_is_rolled_back_at_once(
    promoted: ABTestManager, books: Books
) -> None:
    mode(promoted, "approve")
    for _ in range(20):
        answer(books, "v0002", status=Status.ERROR)
        answer(books, "v0001")
    found = seen(promoted.guard())
    assert (found.decision, found.reason) == ("rollback", "guardrail_error")
    assert champion(promoted) == "v0001"
    assert {promoted.route_request(n).version for n in range(50)} == {"v0001"}
    assert [e.outcome for e in Experiment.select()] == ["promoted", "rolled_back"]


def champion(ab_test: ABTestManager) -> str | None:
    found = ab_test.champion()
    return found.name if found else None


def test_a_new_champion_that_is_worse_is_rolled_back(promoted: ABTestManager, books: Books) -> None:
    traffic(books, 60, v0001=1, v0002=-1)
    found = seen(promoted.auto_promote())
    assert found.decision == "rollback"
    assert champion(promoted) == "v0001"


def test_roll_back_by_hand_ends_the_watch(promoted: ABTestManager) -> None:
    assert promoted.rollback(actor="ana", reason="complaints", expected="v0002") == "v0001"
    assert {promoted.route_request(n).version for n in range(50)} == {"v0001"}
    assert not promoted.is_running()


def test_the_next_test_ends_the_watch(promoted: ABTestManager) -> None:
    promoted.register("v0003", parent="v0002", run_id=None, sha256="x")
    assert promoted.deploy_challenger("v0003") is State.TESTING
    assert promoted.in_traffic() == {"v0002", "v0003"}
    assert [e.outcome for e in Experiment.select()] == ["promoted", "superseded", None]


def test_nothing_is_promoted_or_retired_during_the_watch(promoted: ABTestManager) -> None:
    for act in (promoted.promote, promoted.retire):
        with pytest.raises(Refused, match="No test"):
            act(actor="ana", reason="x")


@pytest.mark.parametrize("name", ["v0001", "v0002"])
def test_what_learned_from_erased_texts_is_not_watched_on(
    promoted: ABTestManager, name: str
) -> None:
    promoted.taint([name], "texts were erased")
    assert not promoted.is_running()
    assert {promoted.route_request(n).version for n in range(50)} == {"v0002"}


def test_without_a_watch_the_new_champion_answers_everybody(ab_test: ABTestManager) -> None:
    Experiment.update(limits={**Experiment.get().limits, "bake_hours": 0}).execute()
    ab_test.promote(actor="ana", reason="better")
    assert {ab_test.route_request(n).version for n in range(50)} == {"v0002"}
    assert ab_test.state() is State.NEW_CHAMPION


# -- every look can be repeated ------------------------------------------------------------


def test_a_look_of_the_past_gives_the_same_whatever_came_after(
    ab_test: ABTestManager, books: Books, clock: FakeClock
) -> None:
    rated = [answer(books, version, thumb=1) for version in ("v0001", "v0002") * 15]
    clock.skip(5)
    ab_test.compare_models()
    traffic(books, 10, v0001=-1)
    for interaction in rated[::2]:
        books.logger.record_feedback(interaction, "ana", thumb=-1)
    while books.scoring.score_pending():
        pass
    clock.skip(5)
    ab_test.compare_models()
    Interaction.delete().where(Interaction.id.in_(rated[:5])).execute()
    for number in (1, 2):
        then, now = ab_test.recompute(1, number)
        assert now == replace(then, acted=now.acted)
    assert [c.champion.rated for c in ab_test.recompute(1, 1)] == [15, 15]


def test_a_look_that_was_never_taken_is_not_found(ab_test: ABTestManager) -> None:
    ab_test.compare_models()
    for experiment, check, text in (
        (7, 1, "no experiment 7"),
        (1, 2, "1 checks, none 2"),
        (1, 0, "none 0"),
    ):
        with pytest.raises(LookupError, match=text):
            ab_test.recompute(experiment, check)


def test_a_look_from_before_the_ledger_cannot_be_repeated(
    ab_test: ABTestManager, books: Books
) -> None:
    answer(books, "v0001")
    ab_test.compare_models()
    Check.update(last_observation=0).execute()
    with pytest.raises(LookupError, match="from before looks could be repeated"):
        ab_test.recompute(1, 1)


# -- a challenger that fails ---------------------------------------------------------------


@pytest.fixture
def failing(house: House) -> tuple[House, set[str]]:
    """A test of v0002, and the versions that cannot answer."""
    house.books.ab_test._limits = lambda: LIMITS
    for name in ("v0001", "v0002"):
        house.books.ab_test.register(name, parent=BASE, run_id=None, sha256="x")
        house.books.ab_test.deploy_challenger(name)
    broken: set[str] = set()
    engine: Any = house.engine
    known = engine._answer
    engine._known |= {"v0001": {}, "v0002": {}}

    def answers(version: str, messages: Any) -> Any:
        if version in broken:
            raise EngineError(f"{version} is broken")
        return known(version, messages)

    engine._answer = answers
    return house, broken


def conversation_of(house: House, version: str) -> int:
    while True:
        conversation = house.books.logger.open_conversation("ana", "Q")
        if house.books.ab_test.route_request(conversation).version == version:
            return conversation


def test_the_champion_answers_when_the_challenger_fails_and_that_counts_against_it(
    failing: tuple[House, set[str]],
) -> None:
    house, broken = failing
    broken.add("v0002")
    conversation = conversation_of(house, "v0002")
    interaction, said = talk(house, "ana", "Hello?", conversation=conversation, thumb=1)
    assert said
    row = Interaction.get_by_id(interaction)
    assert (row.status, row.version, row.failed) == ("complete", "v0001", "v0002")
    assert row.arm == Arm.CHALLENGER
    assert "v0002 failed: v0002 is broken" in row.error
    found = seen(house.books.ab_test.compare_models())
    assert (found.challenger.errors, found.challenger.rated, found.champion.requests) == (1, 0, 0)


def test_nobody_stands_in_for_the_champion(failing: tuple[House, set[str]]) -> None:
    house, broken = failing
    broken.add("v0001")
    with pytest.raises(EngineError, match="v0001 is broken"):
        talk(house, "ana", "Hello?", conversation=conversation_of(house, "v0001"))


def test_when_both_fail_the_person_hears_of_it_once(failing: tuple[House, set[str]]) -> None:
    house, broken = failing
    broken |= {"v0001", "v0002"}
    conversation = conversation_of(house, "v0002")
    with pytest.raises(EngineError, match="v0001 is broken"):
        talk(house, "ana", "Hello?", conversation=conversation)
    row = Interaction.select().order_by(Interaction.id.desc()).get()
    assert (row.status, row.arm) == ("error", "challenger")
    assert seen(house.books.ab_test.compare_models()).challenger.errors == 1


def test_what_a_failing_challenger_wrote_is_void(failing: tuple[House, set[str]]) -> None:
    house, _ = failing
    engine: Any = house.engine
    told: list[str] = []

    def fails_in_the_middle() -> None:
        told.append("word")
        if len(told) == 3:
            raise EngineError("out of memory")

    engine.on_piece = fails_in_the_middle
    conversation = conversation_of(house, "v0002")
    interaction, _ = talk(house, "ana", "Hello?", conversation=conversation)
    answer = Interaction.get_by_id(interaction).answer
    assert answer.split() == engine._answer("v0001", [{"role": "user", "content": "x"}]).split()


# -- the rule put to the test --------------------------------------------------------------


def test_the_self_test_wants_some_traffic(books: Books) -> None:
    with pytest.raises(Refused, match="a self-test needs"):
        books.ab_test.self_test(np.random.default_rng(0))


def test_the_self_test_tells_how_often_the_same_would_be_promoted(
    books: Books, clock: FakeClock
) -> None:
    dice = np.random.default_rng(1)
    for _ in range(150):
        conversation = books.logger.open_conversation("ana", "Q")
        route = books.ab_test.route_request(conversation)
        for _ in range(int(dice.integers(1, 4))):
            interaction = books.logger.log("ana", conversation, "Q?", route)
            latency = float(dice.lognormal(0.5, 0.6))
            books.logger.finish(interaction, Outcome(Status.COMPLETE, "A", latency, 0.1))
            books.logger.score([(interaction, float(dice.beta(5, 2)), "s")])
            if dice.random() < 0.2:
                books.logger.record_feedback(interaction, "ana", thumb=int(dice.choice([1, -1])))
        clock.skip(0.2)
    heard: list[int] = []
    limits = ExperimentLimits(challenger_share=0.5)
    ab_test = ABTestManager(books.database, lambda: limits, clock)
    found = ab_test.self_test(np.random.default_rng(0), heard.append, tests=20)
    assert heard == list(range(1, 21))
    assert found.promoted <= 0.05
    assert found.aborted <= 0.05
    assert found.detectable is not None
    assert 0.05 <= found.detectable < 1
    hours = [h for h in found.hours_needed.values() if h is not None]
    assert hours == sorted(hours, reverse=True)
    simple = replace(limits, decision_rule="plain")
    plain = ABTestManager(books.database, lambda: simple, clock)
    assert plain.self_test(np.random.default_rng(0), tests=20).promoted >= 0.2


def test_stages_are_still_what_they_were(ab_test: ABTestManager) -> None:
    assert {row.name: Stage(row.stage) for row in Version.select()} == {
        "v0001": Stage.CHAMPION,
        "v0002": Stage.CHALLENGER,
    }
