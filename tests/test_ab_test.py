"""Which version answers whom, and every way a version's life can go."""

import threading
from typing import Any

import pytest
from peewee import IntegrityError

from cl.ab_test import ABTestManager, Refused
from cl.db.tables import Audit, Check, Erasure, Experiment, Version
from cl.house import Books
from cl.records import BASE, Arm, Outcome, Route, Stage, State, Status
from cl.settings import ExperimentLimits
from tests.fakes import FakeClock

LIMITS: dict[str, Any] = {"min_test_samples": 4, "min_test_hours": 48, "max_test_hours": 336}


def publish(ab_test: ABTestManager, count: int = 1) -> list[str]:
    names = []
    for _ in range(count):
        names.append(ab_test.next_name())
        ab_test.register(names[-1], parent=BASE, run_id=None, sha256="x")
    return names


@pytest.fixture
def ab_test(books: Books) -> ABTestManager:
    return books.ab_test


@pytest.fixture
def testing(ab_test: ABTestManager) -> ABTestManager:
    """v0001 is champion, v0002 its challenger."""
    for name in publish(ab_test, 2):
        ab_test.deploy_challenger(name)
    return ab_test


def stages() -> dict[str, str]:
    return {row.name: row.stage for row in Version.select()}


# -- states ------------------------------------------------------------------------------------


def test_without_a_version_the_base_model_answers_everybody(ab_test: ABTestManager) -> None:
    assert ab_test.state() is State.NO_CHAMPION
    assert {ab_test.route_request(n) for n in range(50)} == {Route(BASE, Arm.DEFAULT)}


def test_the_first_version_becomes_champion_without_a_test(ab_test: ABTestManager) -> None:
    (name,) = publish(ab_test)
    assert ab_test.deploy_challenger(name) is State.CHAMPION
    assert ab_test.route_request(1) == Route("v0001", Arm.DEFAULT)
    assert not ab_test.is_running()


def test_the_second_version_is_tested(testing: ABTestManager) -> None:
    assert testing.state() is State.TESTING
    assert stages() == {"v0001": "champion", "v0002": "challenger"}


def test_promotion_makes_a_new_champion_and_retires_the_old(testing: ABTestManager) -> None:
    assert testing.promote(actor="ana", reason="better") == "v0002"
    assert testing.state() is State.NEW_CHAMPION
    assert stages() == {"v0001": "retired", "v0002": "champion"}
    assert {testing.route_request(n).version for n in range(50)} == {"v0001", "v0002"}  # watched


def test_retiring_the_challenger_leaves_the_champion(testing: ABTestManager) -> None:
    assert testing.retire(actor="ana", reason="worse") == "v0002"
    assert testing.state() is State.CHAMPION
    assert stages() == {"v0001": "champion", "v0002": "retired"}


def test_a_new_champion_is_tested_like_any_other(testing: ABTestManager) -> None:
    testing.promote(actor="ana", reason="better")
    (third,) = publish(testing)
    assert testing.deploy_challenger(third) is State.TESTING
    testing.retire(actor="ana", reason="worse")
    assert testing.state() is State.CHAMPION


def test_a_retired_version_may_be_tried_again(testing: ABTestManager) -> None:
    testing.retire(actor="ana", reason="by mistake")
    assert testing.deploy_challenger("v0002") is State.TESTING


@pytest.mark.parametrize("hours", [1, -1])
def test_roll_back_goes_back_step_by_step_to_the_base_model_whatever_the_clock_does(
    testing: ABTestManager, clock: FakeClock, hours: float
) -> None:
    clock.skip(hours)
    testing.promote(actor="ana", reason="better")
    assert testing.rollback_target() == "v0001"
    assert testing.rollback(actor="ana", reason="it is not") == "v0001"
    assert stages() == {"v0001": "champion", "v0002": "retired"}
    assert testing.rollback(actor="ana", reason="neither is this") == BASE
    assert testing.state() is State.NO_CHAMPION
    with pytest.raises(Refused, match="no champion"):
        testing.rollback(actor="ana", reason="once more")


def test_roll_back_during_a_test_ends_it(testing: ABTestManager) -> None:
    assert testing.rollback(actor="ana", reason="bad answers") == BASE
    assert testing.state() is State.NO_CHAMPION
    assert stages() == {"v0001": "retired", "v0002": "retired"}
    assert Experiment.get().outcome == "aborted"


# -- what learned from erased texts ------------------------------------------------------------


def test_what_learned_from_erased_texts_never_comes_into_traffic_again(
    testing: ABTestManager,
) -> None:
    publish(testing)
    testing.retire(actor="ana", reason="worse")
    testing.taint(["v0002", "v0003"], "texts were erased")
    for name in ("v0002", "v0003"):
        with pytest.raises(Refused, match=f"{name} learned from texts that were erased"):
            testing.deploy_challenger(name)
    assert stages() == {"v0001": "champion", "v0002": "retired", "v0003": "candidate"}


def test_a_challenger_that_learned_from_erased_texts_is_retired_at_once(
    testing: ABTestManager,
) -> None:
    testing.taint(["v0002"], "texts were erased")
    assert testing.state() is State.CHAMPION
    ended = Experiment.get()
    assert (ended.outcome, ended.reason) == ("aborted", "texts were erased")
    assert [v.tainted for v in testing.versions()] == [True, False]


def test_a_champion_that_learned_from_erased_texts_serves_on_and_an_alert_says_so(
    testing: ABTestManager,
) -> None:
    testing.taint(["v0001"], "texts were erased")
    assert testing.state() is State.TESTING
    alert = Audit.get(Audit.action == "alert")
    assert alert.subject == "v0001"
    assert "until the next training has replaced it" in alert.reason


def test_a_champion_that_has_to_go_is_replaced_without_a_test(testing: ABTestManager) -> None:
    (third,) = publish(testing)
    testing.taint(["v0001"], "texts were erased")
    with pytest.raises(Refused, match="v0002 is being tested already"):
        testing.deploy_challenger(third)
    testing.retire(actor="ana", reason="worse")
    assert testing.deploy_challenger(third) is State.CHAMPION
    assert stages() == {"v0001": "retired", "v0002": "retired", "v0003": "champion"}
    assert not testing.is_running()


def test_a_roll_back_passes_over_what_learned_from_erased_texts(
    testing: ABTestManager, clock: FakeClock
) -> None:
    clock.skip(1)
    testing.promote(actor="ana", reason="better")
    (third,) = publish(testing)
    testing.deploy_challenger(third)
    clock.skip(1)
    testing.promote(actor="ana", reason="better")
    assert testing.rollback_target() == "v0002"
    testing.taint(["v0002"], "texts were erased")
    assert testing.rollback_target() == "v0001"
    testing.taint(["v0001"], "texts were erased")
    assert testing.rollback(actor="ana", reason="bad") == BASE


def test_champions_that_took_turns_and_must_all_go_leave_the_base_model(
    testing: ABTestManager, clock: FakeClock
) -> None:
    for name in ("v0002", "v0001", "v0002"):
        clock.skip(1)
        testing.promote(actor="ana", reason="better")
        testing.deploy_challenger({"v0002": "v0001", "v0001": "v0002"}[name])
    testing.retire(actor="ana", reason="worse")
    testing.taint(["v0001", "v0002"], "texts were erased")
    assert testing.rollback_target() == BASE


def test_a_version_published_after_its_texts_were_erased_is_known_as_such(
    ab_test: ABTestManager, books: Books
) -> None:
    Erasure.create(at=books.clock(), actor="a", interactions=1, runs=[7], versions=[])
    for name, run_id in (("v0001", 7), ("v0002", 8), ("v0003", None)):
        made = ab_test.register(name, parent=BASE, run_id=run_id, sha256="x")
        assert made.tainted is (run_id == 7)


# -- what is refused ---------------------------------------------------------------------------


def test_an_unknown_version_cannot_be_deployed(ab_test: ABTestManager) -> None:
    with pytest.raises(LookupError, match="v0009"):
        ab_test.deploy_challenger("v0009")


def test_only_one_test_runs_at_a_time(testing: ABTestManager) -> None:
    (third,) = publish(testing)
    with pytest.raises(Refused, match="v0002 is being tested already"):
        testing.deploy_challenger(third)
    assert stages()[third] == Stage.CANDIDATE


def test_a_version_in_traffic_is_not_deployed_again(testing: ABTestManager) -> None:
    with pytest.raises(Refused, match="in traffic already, as champion"):
        testing.deploy_challenger("v0001")


def test_decisions_without_a_test_are_refused(ab_test: ABTestManager) -> None:
    for decide in (ab_test.promote, ab_test.retire):
        with pytest.raises(Refused, match="No test is running"):
            decide(actor="ana", reason="why not")


def test_a_decision_about_a_state_that_has_changed_is_refused(testing: ABTestManager) -> None:
    for decide in (testing.promote, testing.retire, testing.rollback):
        with pytest.raises(Refused, match="state has changed"):
            decide(actor="ana", reason="late", expected="v0007")
    assert testing.state() is State.TESTING


def test_the_database_itself_refuses_a_second_champion_and_a_second_test(
    testing: ABTestManager,
) -> None:
    (third,) = publish(testing)
    for stage in (Stage.CHAMPION, Stage.CHALLENGER):
        with pytest.raises(IntegrityError):
            Version.update(stage=stage).where(Version.name == third).execute()
    row = Experiment.select().dicts().get()
    with pytest.raises(IntegrityError):
        Experiment.insert({k: v for k, v in row.items() if k != "id"}).execute()


def test_of_many_who_promote_at_once_one_succeeds(testing: ABTestManager, books: Books) -> None:
    outcomes: list[str] = []

    def promote(number: int) -> None:
        try:
            outcomes.append(testing.promote(actor=f"admin{number}", reason="now"))
        except Refused:
            outcomes.append("refused")
        finally:
            books.database.close()

    threads = [threading.Thread(target=promote, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["v0002"]
    assert Audit.select().where(Audit.action == "promote").count() == 1


def test_every_change_is_in_the_audit_trail_with_name_and_reason(testing: ABTestManager) -> None:
    testing.promote(actor="ana", reason="clearly better")
    testing.rollback(actor="ben", reason="not so clearly")
    lines = [(a.actor, a.action, a.subject) for a in Audit.select().order_by(Audit.id)]
    assert lines == [
        ("loop", "deploy", "v0001"),
        ("loop", "deploy", "v0002"),
        ("ana", "promote", "v0002"),
        ("ben", "rollback", "v0002 -> v0001"),
    ]


def test_names_are_never_used_twice(testing: ABTestManager) -> None:
    assert testing.next_name() == "v0003"
    testing.retire(actor="ana", reason="worse")
    assert testing.next_name() == "v0003"
    publish(testing)
    assert testing.next_name() == "v0004"


# -- routing -----------------------------------------------------------------------------------


def test_during_a_test_a_conversation_stays_with_its_version(testing: ABTestManager) -> None:
    first = [testing.route_request(n) for n in range(200)]
    assert [testing.route_request(n) for n in range(200)] == first
    assert {route.arm for route in first} == {Arm.CHAMPION, Arm.CHALLENGER}
    assert {route.version for route in first if route.arm is Arm.CHALLENGER} == {"v0002"}


def test_without_a_conversation_the_dice_decide(testing: ABTestManager, books: Books) -> None:
    rolls = iter((0.1, 0.9))
    limits = books.thresholds.experiment
    manager = ABTestManager(books.database, limits, books.clock, lambda: next(rolls))
    assert [manager.route_request(None).arm for _ in range(2)] == [Arm.CHALLENGER, Arm.CHAMPION]


# -- comparing ---------------------------------------------------------------------------------


def traffic(books: Books, count: int, *, better: Arm | None, latency_s: float = 1.0) -> None:
    """`count` conversations through the router; the better arm gets the thumbs up."""
    for _ in range(count):
        conversation = books.logger.open_conversation("ana", "Q")
        route = books.ab_test.route_request(conversation)
        interaction = books.logger.log("ana", conversation, "What is a budget?", route)
        outcome = Outcome(Status.COMPLETE, "A budget is a plan for money.", latency_s)
        books.logger.finish(interaction, outcome)
        if better:
            thumb = 1 if route.arm is better else -1
            books.logger.record_feedback(interaction, "ana", thumb=thumb)
    while books.scoring.score_pending():
        pass


def test_there_is_nothing_to_compare_without_a_test(ab_test: ABTestManager) -> None:
    assert ab_test.compare_models() is None
    assert ab_test.auto_promote() is None


def test_a_test_without_traffic_goes_on_for_two_weeks(
    testing: ABTestManager, clock: FakeClock
) -> None:
    for hours, verdict in ((0, ("continue", "no_data")), (337, ("retire", "max_duration"))):
        clock.skip(hours)
        seen = testing.auto_promote()
        assert seen is not None
        assert (seen.decision, seen.reason) == verdict
    assert testing.state() is State.CHAMPION


@pytest.mark.parametrize(
    ("hours", "better", "decision", "reason"),
    [
        (49, Arm.CHALLENGER, "promote", "better"),
        (49, Arm.CHAMPION, "retire", "guardrail_thumbs_down"),
        (47, Arm.CHALLENGER, "continue", "collecting"),
        (49, None, "continue", "undecided"),
        (337, None, "retire", "max_duration"),
    ],
)
def test_the_verdict_follows_time_samples_and_lift(
    books: Books, clock: FakeClock, hours: float, better: Arm | None, decision: str, reason: str
) -> None:
    books.ab_test._limits = lambda: ExperimentLimits(
        challenger_share=0.5, decision_rule="plain", decision_mode="auto", **LIMITS
    )
    for name in publish(books.ab_test, 2):
        books.ab_test.deploy_challenger(name)
    traffic(books, 30, better=better)
    clock.skip(hours)
    seen = books.ab_test.auto_promote()
    assert seen is not None
    assert (seen.decision, seen.reason) == (decision, reason)
    wanted = {"promote": State.NEW_CHAMPION, "retire": State.CHAMPION, "continue": State.TESTING}
    assert books.ab_test.state() is wanted[decision]


def test_too_few_answers_are_not_judged_whatever_the_time(
    testing: ABTestManager, books: Books, clock: FakeClock
) -> None:
    traffic(books, 3, better=Arm.CHALLENGER)
    clock.skip(300)
    seen = testing.auto_promote()
    assert seen is not None
    assert seen.decision == "continue"


def test_the_limits_of_a_test_are_frozen_at_its_start(
    testing: ABTestManager, books: Books, clock: FakeClock
) -> None:
    impatient = ABTestManager(
        books.database,
        lambda: ExperimentLimits(min_test_hours=0.001, min_test_samples=1),
        clock,
    )
    traffic(books, 5, better=Arm.CHALLENGER)
    clock.skip(0.01)
    seen = impatient.auto_promote()
    assert seen is not None
    assert seen.reason in ("collecting", "no_data")


def test_cancelled_before_the_first_word_and_interrupted_count_in_neither_arm(
    testing: ABTestManager, books: Books
) -> None:
    for status, first, counted in (
        (Status.CANCELLED, None, 0),
        (Status.INTERRUPTED, 0.1, 0),
        (Status.CANCELLED, 0.1, 1),
        (Status.ERROR, None, 1),
    ):
        before = requests_seen(testing)
        conversation = books.logger.open_conversation("ana", "Q")
        route = testing.route_request(conversation)
        interaction = books.logger.log("ana", conversation, "Q?", route)
        books.logger.finish(interaction, Outcome(status, "A", 0.5, first))
        assert requests_seen(testing) - before == counted


def requests_seen(ab_test: ABTestManager) -> int:
    seen: Any = ab_test.compare_models()
    return int(seen.champion.requests + seen.challenger.requests)


def test_every_look_is_kept_with_what_it_saw(testing: ABTestManager, books: Books) -> None:
    traffic(books, 4, better=Arm.CHALLENGER)
    testing.compare_models()
    check = Check.get()
    arms = [check.numbers[side] for side in ("champion", "challenger")]
    assert sum(arm["requests"] for arm in arms) == 4
    assert check.decision == "continue"
