"""The background thread: it lives through whatever its work raises, and says what that was."""

import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from cl.db.tables import Iteration, TrainingRun
from cl.house import House
from cl.records import Step
from cl.worker import Worker
from tests.fakes import FakeClock, talk


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def worker(house: House) -> Worker:
    return house.worker


def test_it_looks_once_at_start_and_then_once_an_hour(house: House, clock: FakeClock) -> None:
    for hours, looks in ((0, 1), (0.5, 1), (0.5, 2), (5, 3)):
        clock.skip(hours)
        Worker(house.loop, clock, timedelta(hours=1))._tick()
        assert sum(row.repeats for row in Iteration.select()) == looks


def test_two_workers_never_do_the_same_due_work(house: House, clock: FakeClock) -> None:
    workers = [Worker(house.loop, clock, timedelta(hours=1)) for _ in range(2)]
    for _ in range(3):
        for worker in workers:
            worker._tick()
        clock.skip(1)
    assert sum(row.repeats for row in Iteration.select()) == 3


def test_a_run_asked_for_by_hand_does_not_wait_for_the_hour(house: House) -> None:
    house.worker._tick()
    house.loop.request_training("admin", "now")
    house.worker._tick()
    assert TrainingRun.get().ended_at is not None


def test_an_exception_is_kept_for_the_page_and_the_thread_lives_on(
    house: House, worker: Worker, clock: FakeClock
) -> None:
    problem: list[Exception] = [RuntimeError("the roof fell in")]
    original = house.engine.ensure

    def ensure(version: str) -> None:
        if problem:
            raise problem[0]
        original(version)

    house.engine.ensure = ensure  # type: ignore[method-assign]
    worker.start()
    try:
        wait_for(lambda: worker.problem is not None)
        assert worker.problem is not None
        assert worker.problem.text == "RuntimeError: the roof fell in"
        assert worker.is_alive()
        problem.clear()
        worker.wake()
        wait_for(lambda: worker.problem is None)
        wait_for(lambda: Iteration.select().exists())
    finally:
        worker.stop()
    assert not worker.is_alive()


def test_a_failed_run_is_shown_until_something_goes_well(house: House) -> None:
    for number in range(12):
        talk(house, "ana", f"Question {number}?", thumb=-1, correction=f"Answer {number}.")
    house.loop._p.trainer.problem = OSError(28, "No space left on device")  # type: ignore[attr-defined]
    house.worker.run_until_quiet()
    assert house.worker.problem is not None
    assert "No space left" in house.worker.problem.text
    house.loop._p.trainer.problem = None  # type: ignore[attr-defined]
    report = house.worker.run_until_quiet()
    assert report is not None
    assert report.step is Step.DEPLOYED
    assert house.worker.problem is None
