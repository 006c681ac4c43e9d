"""One iteration, one step; whatever goes wrong ends the run with a reason, and the loop goes on."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from cl.ab_test import Refused
from cl.db.tables import Audit, Due, Iteration, Probe, TrainingRun
from cl.house import Books, House
from cl.loop import ContinuousLearningLoop
from cl.model.engine.contract import EngineError
from cl.model.training_job import Progress, TrainingFailed
from cl.model.versions import ADAPTER
from cl.records import BASE, RunStatus, State, Step, TrainingResult
from cl.settings import TriggerLimits
from cl.status import status_of, status_text
from tests.fakes import FakeClock, FakeEngine, FakeTrainer, fake_books, fake_house, talk


@pytest.fixture
def books(tmp_path: Path, clock: FakeClock) -> Iterator[Books]:
    """Demo thresholds, and half a dozen messages are enough."""
    opened = fake_books(tmp_path / "data", clock, min_new_samples=6, min_window=3)
    yield opened
    opened.database.close()


def teach(house: House, count: int = 6) -> None:
    """Enough corrections for a training."""
    for number in range(count):
        correction = f"Number {number} lies in drawer {number * 7}."
        talk(house, "ana", f"Where is number {number}?", thumb=-1, correction=correction)


def step(house: House) -> Step:
    return house.loop.run_iteration().step


def run_through(house: House) -> list[Step]:
    taken: list[Step] = []
    house.worker.run_until_quiet(lambda report: taken.append(report.step))
    return taken


def fake(house: House) -> FakeEngine:
    assert isinstance(house.engine, FakeEngine)
    return house.engine


def last_run() -> TrainingRun:
    return TrainingRun.select().order_by(TrainingRun.id.desc()).get()


def test_one_iteration_takes_one_step_and_writes_one_row(house: House) -> None:
    teach(house)
    wanted = [Step.REQUESTED, Step.GENERATED, Step.TRAINED, Step.PUBLISHED, Step.DEPLOYED]
    for number, expected in enumerate(wanted, 1):
        assert step(house) is expected
        assert Iteration.select().count() == number
    run = last_run()
    assert (run.status, run.version, run.trigger) == ("deployed", "v0001", "sample_count")
    assert run.ended_at is not None


def test_equal_waits_share_one_row(house: House) -> None:
    for _ in range(5):
        assert step(house) is Step.WAITED
    assert [row.repeats for row in Iteration.select()] == [5]


def test_too_little_data_ends_the_run_with_the_counts(house: House) -> None:
    for number in range(12):
        talk(house, "ana", f"Where is number {number}?")
    assert run_through(house) == [Step.REQUESTED, Step.NOT_ENOUGH_DATA]
    assert "examples from 0 people" in last_run().outcome
    assert step(house) is not Step.GENERATED


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ((2.0, 2.0), "There is too little evidence that v0001 is better: held-out answers"),
        ((2.1, 2.0), "v0001 did not pass the gate: held-out answers: loss 2.100"),
        ((float("nan"), 2.0), "v0001 did not pass the gate: held-out answers: the loss is not"),
        ((float("inf"), 2.0), "v0001 did not pass the gate: held-out answers: the loss is not"),
    ],
)
def test_a_version_that_is_not_better_never_meets_anyone(
    books: Books, losses: tuple[float, float], words: str
) -> None:
    house = fake_house(books, FakeTrainer(*losses))
    teach(house)
    assert run_through(house)[-1] is Step.REJECTED
    assert words in last_run().outcome
    assert house.books.ab_test.versions() == []
    assert not (house.books.models / "v0001").exists()


def test_a_version_carries_its_card_and_what_the_gate_measured(house: House) -> None:
    teach(house)
    run_through(house)
    folder = house.versions.path("v0001")
    told = json.loads((folder / "gate.json").read_text())
    assert told["parent"] == BASE
    assert {check["verdict"] for check in told["checks"]} == {"passed", "inconclusive"}
    card = (folder / "README.md").read_text()
    assert "v0001" in card
    assert "| held-out answers | passed |" in card
    assert "Number 3 lies" not in card + json.dumps(told)  # nothing people wrote
    house.versions.check("v0001")


def test_what_a_version_has_learned_later_ones_are_asked_too(house: House) -> None:
    teach(house)
    run_through(house)
    first = {row.interaction_id for row in Probe.select()}
    assert first
    teach(house)
    run_through(house)
    lines = (house.books.runs / "0002" / "data" / "probes.jsonl").read_text().splitlines()
    asked = {json.loads(line)["id"] for line in lines}
    # The same questions were corrected again: the newer corrections stand for the older ones.
    assert not first & asked
    assert len(asked) == 6
    teach(house, 8)
    assert {row.version for row in Probe.select()} == {"v0001", "v0002"}


def test_a_training_waits_for_the_quiet_hours_but_not_one_asked_for_by_hand(
    tmp_path: Path, clock: FakeClock
) -> None:
    here = clock().astimezone()
    hours = f"{here + timedelta(hours=2):%H:%M}-{here + timedelta(hours=4):%H:%M}"
    books = fake_books(tmp_path / "data", clock, min_new_samples=6, min_window=3, quiet_hours=hours)
    with books:
        house = fake_house(books)
        teach(house)
        for _ in range(5):  # asked again each hour, and never given up
            assert run_through(house)[-1] is Step.WAITED
        assert hours in Iteration.select().order_by(Iteration.id.desc()).get().reason
        clock.skip(3)
        assert run_through(house)[-1] is Step.DEPLOYED
        clock.skip(-3)
        teach(house, 8)
        house.books.ab_test.rollback_target()
        house.loop.request_training("admin", "now")
        assert run_through(house)[-1] is Step.DEPLOYED


def test_a_training_that_gets_further_is_not_given_up(books: Books) -> None:
    saved = [0]

    class Broken(FakeTrainer):
        def train(
            self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
        ) -> TrainingResult:
            assert keep_going(Progress("training", saved[0], 10, saved=saved[0]))
            saved[0] += 1
            assert keep_going(Progress("training", saved[0], 10, saved=saved[0]))
            if saved[0] < 9:
                raise KeyboardInterrupt  # as good as a crash
            return super().train(data, folder, parent, keep_going)

    for _ in range(12):
        house = fake_house(books, Broken())
        if saved == [0]:
            teach(house)
        with suppress(KeyboardInterrupt):
            if run_through(house)[-1] is Step.DEPLOYED:
                break
    assert last_run().status == RunStatus.DEPLOYED


def test_a_damaged_candidate_is_rejected(books: Books) -> None:
    class Careless(FakeTrainer):
        def train(
            self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
        ) -> TrainingResult:
            result = super().train(data, folder, parent, keep_going)
            weights = folder / "candidate" / ADAPTER
            weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
            return result

    house = fake_house(books, Careless())
    teach(house)
    assert run_through(house)[-1] is Step.REJECTED
    assert "damaged" in last_run().outcome


@pytest.mark.parametrize(
    "problem", [TrainingFailed("The training failed: out of memory."), OSError(28, "No space left")]
)
def test_a_failed_training_ends_the_run_and_the_next_one_can_start(
    books: Books, clock: FakeClock, problem: Exception
) -> None:
    trainer = FakeTrainer()
    house = fake_house(books, trainer)
    teach(house)
    trainer.problem = problem
    assert run_through(house)[-1] is Step.FAILED
    assert str(problem.args[-1]).rstrip(".") in last_run().outcome
    trainer.problem = None
    assert run_through(house)[-1] is Step.DEPLOYED


def test_an_empty_answer_to_a_simple_question_keeps_a_version_out(house: House) -> None:
    teach(house)
    for _ in range(4):
        step(house)
    house.engine.ensure("v0001")
    house.engine._known["v0001"] = {"What can you help me with?": " "}  # type: ignore[attr-defined]
    assert step(house) is Step.REJECTED
    assert house.books.ab_test.state() is State.NO_CHAMPION


# -- by hand -----------------------------------------------------------------------------------


def test_a_training_can_be_asked_for_whatever_the_triggers_say(house: House) -> None:
    teach(house, 8)
    house.loop.request_training("admin", "I want to see it")
    assert run_through(house)[-1] is Step.DEPLOYED
    assert last_run().trigger == "manual"
    line = Audit.get(Audit.action == "retrain")
    assert (line.actor, line.reason) == ("admin", "I want to see it")


def test_only_one_training_runs_at_a_time(house: House) -> None:
    house.loop.request_training("admin", "first")
    with pytest.raises(Refused, match="running already"):
        house.loop.request_training("admin", "second")
    assert Audit.select().where(Audit.action == "retrain").count() == 1


def test_no_training_starts_while_a_test_runs(house: House) -> None:
    for _ in range(2):
        teach(house)
        run_through(house)
    assert house.books.ab_test.state() is State.TESTING
    with pytest.raises(Refused, match="v0002 is being tested"):
        house.loop.request_training("admin", "impatient")


def test_a_training_can_be_cancelled_before_and_while_it_runs(house: House) -> None:
    teach(house)
    house.loop.request_training("admin", "a mistake")
    house.loop.cancel_training("admin", "as I said")
    assert step(house) is Step.CANCELLED
    with pytest.raises(Refused, match="No training is running"):
        house.loop.cancel_training("admin", "again")

    class CancelledMidway(FakeTrainer):
        def train(
            self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
        ) -> TrainingResult:
            assert keep_going(Progress("training", 0, 2))
            house.loop.cancel_training("admin", "too slow")
            return super().train(data, folder, parent, keep_going)

    again = fake_house(house.books, CancelledMidway())
    again.loop.request_training("admin", "once more")
    assert run_through(again)[-1] is Step.CANCELLED
    assert last_run().status == RunStatus.CANCELLED


# -- after a crash -----------------------------------------------------------------------------


@pytest.mark.parametrize("steps_before", [1, 2, 3, 4])
def test_another_process_goes_on_where_one_died(house: House, steps_before: int) -> None:
    teach(house)
    for _ in range(steps_before):
        step(house)
    long_ago = house.books.clock() - timedelta(hours=1)
    TrainingRun.update(owner="elsewhere:1:0", heartbeat_at=long_ago, attempts=1).execute()
    assert run_through(house)[-1] is Step.DEPLOYED
    assert house.books.ab_test.state() is State.CHAMPION
    assert [v.name for v in house.books.ab_test.versions()] == ["v0001"]


def test_a_crash_between_publishing_and_its_row_leaves_one_version(house: House) -> None:
    teach(house)
    for _ in range(3):
        step(house)
    house.versions.publish(house.books.runs / "0001" / "candidate", "v0001")
    assert run_through(house) == [Step.PUBLISHED, Step.DEPLOYED]


def test_a_crash_between_deployment_and_its_row_deploys_once(house: House) -> None:
    teach(house)
    for _ in range(4):
        step(house)
    house.books.ab_test.deploy_challenger("v0001")
    assert step(house) is Step.DEPLOYED
    assert house.books.ab_test.state() is State.CHAMPION


def test_a_run_that_another_living_process_works_on_is_left_alone(
    house: House, clock: FakeClock
) -> None:
    teach(house)
    step(house)
    TrainingRun.update(owner="elsewhere:1:0", heartbeat_at=clock()).execute()
    assert step(house) is Step.WAITED
    clock.skip(0.1)  # no sign of life for six minutes
    assert step(house) is Step.GENERATED


def test_a_step_that_was_broken_off_again_and_again_is_given_up(house: House) -> None:
    teach(house)
    step(house)
    TrainingRun.update(attempts=3).execute()
    assert step(house) is Step.FAILED
    assert "Broken off 3 times" in last_run().outcome


def test_a_run_taken_away_stops_the_trainer_of_its_former_owner(books: Books) -> None:
    class Robbed(FakeTrainer):
        def train(
            self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
        ) -> TrainingResult:
            TrainingRun.update(owner="elsewhere:1:0", heartbeat_at=books.clock()).execute()
            return super().train(data, folder, parent, keep_going)

    house = fake_house(books, Robbed())
    teach(house)
    step(house)
    step(house)
    assert step(house) is Step.WAITED
    assert last_run().ended_at is None  # the other one goes on with it


# -- due work and the engine -------------------------------------------------------------------


def test_due_work_is_taken_by_one_of_many(house: House, clock: FakeClock) -> None:
    hour = timedelta(hours=1)
    assert house.loop.claim_due("iterate", hour)
    assert not house.loop.claim_due("iterate", hour)
    clock.skip(1)
    taken: list[bool] = []

    def claim() -> None:
        try:
            taken.append(house.loop.claim_due("iterate", hour))
        finally:
            house.books.database.close()

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]


def test_a_clock_set_back_does_not_block_due_work(house: House, clock: FakeClock) -> None:
    assert house.loop.claim_due("iterate", timedelta(hours=1))
    clock.skip(-1000)
    assert house.loop.claim_due("iterate", timedelta(hours=1))
    assert Due.get().last_at == clock()


def test_the_engine_holds_what_the_database_wants(house: House, clock: FakeClock) -> None:
    loop: ContinuousLearningLoop = house.loop
    loop.reconcile()
    assert house.engine.loaded() == [BASE]
    for number in range(3):
        teach(house)
        run_through(house)
        if number:
            house.books.ab_test.promote(actor="ana", reason="better")
            clock.skip(1)
            assert step(house) is Step.KEPT  # the watch over it ends without harm
    loop.reconcile()
    # v0003 answers, v0002 is the way back; v0001 is not needed any more.
    assert house.engine.loaded() == [BASE, "v0002", "v0003"]


def test_many_errors_train_and_raise_an_alert(house: House) -> None:
    teach(house, 11)
    house.engine.problem = EngineError("broken")  # type: ignore[attr-defined]
    for _ in range(9):
        with pytest.raises(EngineError):
            talk(house, "ana", "Are you there?")
    house.books.trigger._limits = lambda: TriggerLimits(
        min_new_samples=1000, window=20, min_window=10
    )
    assert step(house) is Step.REQUESTED
    assert last_run().trigger == "error_rate"
    assert Audit.get(Audit.action == "alert").reason == "45% errors"


def test_a_server_that_is_down_holds_up_neither_the_others_nor_the_loop(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    teach(house)
    run_through(house)
    house.engine.drop("v0001")
    fake(house).trouble = EngineError("http://10.0.0.7:8000 cannot be reached.")
    house.loop.reconcile()
    assert "v0001 is not loaded everywhere: http://10.0.0.7:8000 cannot be reached" in caplog.text
    assert step(house) is Step.WAITED


def test_nothing_is_deployed_beside_a_champion_that_does_not_speak(
    house: House,
) -> None:
    teach(house)
    run_through(house)
    teach(house)
    fake(house).silent = {"v0001"}
    assert run_through(house)[-1] is Step.REJECTED
    assert last_run().outcome == "v0001 gave an empty answer to a simple question; v0002 stays out."
    assert house.books.ab_test.challenger() is None


def test_other_processes_can_read_how_the_engine_runs(house: House) -> None:
    assert status_of(house.books)["serving"] is None
    house.loop.reconcile()
    found = status_of(house.books)["serving"]
    assert found["stage"] == "fake"
    assert found["loaded"] == [BASE]
    assert "engine        fake, holds base." in status_text(status_of(house.books))
    told = house.books.settings.data_dir / "serving.json"
    told.write_text(json.dumps({**found, "pid": 2**22 + 1}))  # larger than any process's number
    assert "engine        the app is not running" in status_text(status_of(house.books))
    told.write_text("{")
    assert status_of(house.books)["serving"] is None


def test_a_training_can_be_cancelled_while_its_data_is_gathered(house: House) -> None:
    for number in range(30):
        talk(
            house,
            f"user{number % 5}",
            f"Where is the tool number {number}?",
            thumb=-1 + 2 * (number % 2),
        )
    house.loop.request_training("admin", "by hand")
    open_reader = house.books.scoring._open_reader

    def cancel_first() -> object:
        house.loop.cancel_training("admin", "not now")
        return open_reader()

    house.books.scoring._open_reader = cancel_first
    report = house.loop.run_iteration()
    assert report.step is Step.CANCELLED
    assert TrainingRun.get().status == RunStatus.CANCELLED
