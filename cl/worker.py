"""The hourly thread: `schedule` ticks, the database says whether work is due.

A second thread looks every two seconds whether a version in traffic does harm: a burst of errors
must not wait for the hour, nor for a training that keeps the first thread busy.

An exception in the work is caught, kept for the pages to show, and survived. Work that was taken
up by one process or before a restart is not taken up again: what is due is decided by one
compare-and-set in the database, not by this thread's memory.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import schedule

from cl.db.tables import TrainingRun
from cl.loop import ContinuousLearningLoop
from cl.records import IterationReport, Step

log = logging.getLogger(__name__)

_TICK_SECONDS = 2
_PATIENCE = timedelta(minutes=1)
_MOST_STEPS = 10  # a run has four; more in a row would be a fault


@dataclass(frozen=True)
class Problem:
    """What went wrong last in the background."""

    at: datetime
    text: str


class Worker:
    def __init__(
        self,
        loop: ContinuousLearningLoop,
        clock: Callable[[], datetime],
        every: timedelta,
    ) -> None:
        self._loop = loop
        self._now = clock
        self._every = every
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._schedule = schedule.Scheduler()
        self._schedule.every(_TICK_SECONDS).seconds.do(self._guarded, self._tick)
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._guard = threading.Thread(target=self._keep_guard, name="guard", daemon=True)
        self._patient_until: datetime | None = None
        self.problem: Problem | None = None

    def start(self) -> None:
        self._thread.start()
        self._guard.start()

    def stop(self, timeout: float = 15.0) -> None:
        self._stop.set()
        self._wake.set()
        for thread in (self._thread, self._guard):
            if thread.is_alive():
                thread.join(timeout)

    def wake(self) -> None:
        """Look now instead of at the next tick."""
        self._wake.set()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        self._guarded(self._tick)
        while not self._stop.is_set():
            woken = self._wake.wait(timeout=1.0)
            if self._stop.is_set():
                return
            if woken:
                self._wake.clear()
                self._patient_until = None
                self._guarded(self._tick)
            self._schedule.run_pending()

    def _keep_guard(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            self._guarded(self._loop.guard)

    def _guarded(self, work: Callable[[], None]) -> None:
        # Whatever fails, the thread lives and the page says so.
        try:
            work()
        except Exception as problem:
            log.exception("background work failed")
            self.problem = Problem(self._now(), f"{type(problem).__name__}: {problem}")

    def _tick(self) -> None:
        self._loop.reconcile()
        self._loop.forget_what_is_due()
        if self._takes_up_a_run() or self._loop.claim_due("iterate", self._every):
            report = self.run_until_quiet()
            waits = report is not None and report.step is Step.WAITED and _is_run_open()
            self._patient_until = self._now() + _PATIENCE if waits else None

    def run_until_quiet(
        self, hear: Callable[[IterationReport], None] = lambda report: None
    ) -> IterationReport | None:
        """Iterate as long as one step leads to the next; `hear` is told each step."""
        report = None
        for _ in range(_MOST_STEPS):
            if self._stop.is_set():
                break
            report = self._loop.run_iteration()
            hear(report)
            self.problem = (
                None if report.step is not Step.FAILED else Problem(self._now(), report.reason)
            )
            if not report.goes_on:
                break
        return report

    def _takes_up_a_run(self) -> bool:
        """A run asked for by hand, or left open by a crash, does not wait for the hour.

        One that has to wait itself, for another process or the quiet hours, is looked at now and then.
        """
        is_patient = self._patient_until is not None and self._now() < self._patient_until
        return _is_run_open() and not is_patient


def _is_run_open() -> bool:
    return bool(TrainingRun.select().where(TrainingRun.ended_at.is_null()).exists())
