"""Whatever several processes and stale pages ask for, and in whatever order: never two champions,
never a lost version, never the wrong one promoted or retired."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from peewee import Database

from cl.ab_test import ABTestManager, Refused
from cl.db.database import open_database
from cl.db.tables import Audit, Experiment, Version
from cl.records import BASE, Stage, State
from cl.settings import ExperimentLimits
from tests.fakes import fresh_database

EXAMPLES, ACTIONS = 100, 20  # together 2,000 actions, each after a view that may be stale


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class View:
    """What a tab or a process saw when it last looked."""

    def __init__(self, manager: ABTestManager) -> None:
        champion, challenger = manager.champion(), manager.challenger()
        self.champion = champion.name if champion else None
        self.challenger = challenger.name if challenger else None


def check_invariants(published: set[str]) -> None:
    stages = {row.name: Stage(row.stage) for row in Version.select()}
    assert set(stages) == published  # none is lost
    champions = [name for name, stage in stages.items() if stage is Stage.CHAMPION]
    challengers = [name for name, stage in stages.items() if stage is Stage.CHALLENGER]
    assert len(champions) <= 1
    assert len(challengers) <= 1
    running = list(Experiment.select().where(Experiment.ended_at.is_null()))
    assert len(running) <= 1
    tests = [e for e in running if e.kind == "test"]
    assert [e.challenger for e in tests] == challengers
    assert [e.champion for e in tests] == champions[: len(tests)]
    for watch in (e for e in running if e.kind == "watch"):
        assert [watch.challenger] == champions
        assert stages[watch.champion] is Stage.RETIRED


class Deployment(RuleBasedStateMachine):
    """Two managers of one database, as two processes have them; each acts on what it saw last."""

    @initialize()
    def open(self) -> None:
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name)
        (path / "usage.db").write_bytes(fresh_database())
        self.database: Database = open_database(path)
        self.clock = Clock()
        limits = ExperimentLimits(bake_hours=1.0, decision_mode="auto", max_test_hours=10.0)
        self.managers = [ABTestManager(self.database, lambda: limits, self.clock) for _ in range(2)]
        self.published: set[str] = set()
        for number in (1, 2, 3):
            self.publish(0)
            if number < 3:
                self.deploy(0, number)
        self.views = [View(manager) for manager in self.managers]

    who = st.integers(0, 1)

    @rule(who=who)
    def look(self, who: int) -> None:
        self.views[who] = View(self.managers[who])

    @rule(who=who)
    def publish(self, who: int) -> None:
        manager = self.managers[who]
        name = manager.next_name()
        manager.register(name, parent=BASE, run_id=None, sha256="x")
        self.published.add(name)

    @rule(who=who, number=st.integers(1, 5))
    def deploy(self, who: int, number: int) -> None:
        before = View(self.managers[who])
        try:
            self.managers[who].deploy_challenger(f"v{number:04d}")
        except Refused:
            assert View(self.managers[who]).__dict__ == before.__dict__
        except LookupError:
            assert f"v{number:04d}" not in self.published

    @rule(who=who)
    def promote(self, who: int) -> None:
        seen, before = self.views[who].challenger, View(self.managers[who])
        try:
            name = self.managers[who].promote(actor="x", reason="x", expected=seen)
        except Refused:
            assert seen != before.challenger or before.challenger is None
            assert View(self.managers[who]).__dict__ == before.__dict__
        else:
            assert name == before.challenger
            assert seen in (None, name)
            assert View(self.managers[who]).champion == name

    @rule(who=who)
    def retire(self, who: int) -> None:
        seen, before = self.views[who].challenger, View(self.managers[who])
        try:
            name = self.managers[who].retire(actor="x", reason="x", expected=seen)
        except Refused:
            assert seen != before.challenger or before.challenger is None
        else:
            assert name == before.challenger
            assert View(self.managers[who]).champion == before.champion

    @rule(who=who)
    def roll_back(self, who: int) -> None:
        seen, before = self.views[who].champion, View(self.managers[who])
        target = self.managers[who].rollback_target()
        try:
            name = self.managers[who].rollback(actor="x", reason="x", expected=seen)
        except Refused:
            assert seen != before.champion or before.champion is None
        else:
            assert name == target
            assert View(self.managers[who]).champion == (None if target == BASE else target)

    @rule(who=who, hours=st.sampled_from([-3.0, 0.0, 0.5, 2.0, 11.0]))
    def judge(self, who: int, hours: float) -> None:
        self.clock.now += timedelta(hours=hours)
        self.managers[who].guard()
        self.managers[who].auto_promote()

    @invariant()
    def nothing_is_broken(self) -> None:
        if hasattr(self, "views"):
            check_invariants(self.published)
            routed = {self.managers[0].route_request(n).version for n in range(8)}
            assert routed <= self.managers[0].in_traffic()

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
            self.folder.cleanup()


Deployment.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=ACTIONS,
    deadline=None,
    derandomize=True,  # the same stories in every run
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestDeployment = pytest.mark.slow(Deployment.TestCase)


def test_tabs_that_press_at_the_same_time_promote_once(tmp_path: Path) -> None:
    (tmp_path / "usage.db").write_bytes(fresh_database())
    database, clock = open_database(tmp_path), Clock()
    manager = ABTestManager(database, ExperimentLimits, clock)
    for name in ("v0001", "v0002"):
        manager.register(name, parent=BASE, run_id=None, sha256="x")
        manager.deploy_challenger(name)
    start, outcomes = threading.Barrier(8), []

    def press(number: int) -> None:
        act = manager.promote if number % 2 else manager.retire
        start.wait()
        try:
            act(actor=f"tab {number}", reason="x", expected="v0002")
            outcomes.append(number % 2)
        except Refused:
            pass
        finally:
            database.close()

    threads = [threading.Thread(target=press, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    wanted = State.NEW_CHAMPION if outcomes[0] else State.CHAMPION
    assert manager.state() is wanted
    check_invariants({"v0001", "v0002"})
    assert Audit.select().where(Audit.action.in_(("promote", "retire"))).count() == 1
    database.close()
