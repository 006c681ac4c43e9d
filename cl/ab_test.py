"""ABTestManager: which version answers whom, and which one stays.

Writes version, experiment and check. Every change is one transaction with its audit line, made
only if the rows still are what the caller saw; the database itself refuses a second champion,
challenger or running experiment.

An experiment is a test of a challenger against the champion or, after a promotion, the watch: the
new champion as challenger of the old one, which keeps a small share of the conversations until it
is clear that the new one does no harm.
"""

import random
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.random import Generator
from peewee import Database, IntegrityError

from cl.db import audit, erasures, observations
from cl.db.observations import Ledger
from cl.db.scorers import newest_scorer
from cl.db.tables import Check, Experiment
from cl.db.tables import Version as VersionRow
from cl.records import BASE, Arm, Comparison, Route, Stage, State, Version
from cl.rules import comparison, verdicts
from cl.rules.assignment import sees_challenger
from cl.rules.deployment import state_of
from cl.rules.planning import Plan, plan
from cl.rules.resampling import SelfTest, self_test
from cl.settings import ExperimentLimits

TEST, WATCH = "test", "watch"
_RECENT = timedelta(days=28)  # the traffic a self-test draws from
_MOST_DRAWN = 20_000


class Refused(RuntimeError):
    """This cannot be done now; the text says why. Nothing was changed."""


class ABTestManager:
    def __init__(
        self,
        database: Database,
        limits: Callable[[], ExperimentLimits],
        clock: Callable[[], datetime],
        dice: Callable[[], float] = random.random,
    ) -> None:
        """`limits` gives those that hold now; a test keeps those it began with."""
        self._db = database
        self._limits = limits
        self._now = clock
        self._dice = dice
        self._ledger = Ledger(0)  # of the running experiment, as far as it was read

    # -- who is who ------------------------------------------------------------------------

    def state(self) -> State:
        champion, challenger = self.champion(), self.challenger()
        is_over = Experiment.ended_at.is_null(False) & (Experiment.kind == TEST)
        ended = Experiment.select().where(is_over)
        last = ended.order_by(Experiment.id.desc()).first()
        promoted = last.challenger if last and last.outcome == "promoted" else None
        return state_of(
            champion.name if champion else None, challenger.name if challenger else None, promoted
        )

    def champion(self) -> Version | None:
        return self._in_stage(Stage.CHAMPION)

    def challenger(self) -> Version | None:
        return self._in_stage(Stage.CHALLENGER)

    def versions(self) -> list[Version]:
        """All published versions, the newest first."""
        return [_version(row) for row in VersionRow.select().order_by(VersionRow.id.desc())]

    def is_running(self) -> bool:
        """Whether a test or a watch goes on."""
        return self._experiment() is not None

    def in_traffic(self) -> set[str]:
        """Every version somebody may meet now; the base model among them only if nobody else."""
        experiment, champion = self._experiment(), self.champion()
        if experiment:
            return {experiment.champion, experiment.challenger}
        return {champion.name if champion else BASE}

    def route_request(self, conversation_id: int | None) -> Route:
        """The version that answers this conversation; the same one as long as a test runs.

        A caller without a conversation gets a random draw.
        """
        experiment = self._experiment()
        if experiment is None:
            champion = self.champion()
            return Route(champion.name if champion else BASE, Arm.DEFAULT)
        if conversation_id is None:
            drawn = self._dice() < experiment.share
        else:
            drawn = sees_challenger(experiment.id, conversation_id, experiment.share)
        if drawn:
            return Route(experiment.challenger, Arm.CHALLENGER, experiment.id)
        return Route(experiment.champion, Arm.CHAMPION, experiment.id)

    def stand_in(self, route: Route) -> str | None:
        """The version that answers when a challenger cannot: the champion of its experiment."""
        if route.arm is not Arm.CHALLENGER:
            return None
        champion = Experiment.select(Experiment.champion).where(
            Experiment.id == route.experiment_id
        )
        name: str | None = champion.scalar()
        return name

    # -- the life of a version -------------------------------------------------------------

    def next_name(self) -> str:
        """The name the next version will get; names are never used twice."""
        newest = VersionRow.select().order_by(VersionRow.id.desc()).first()
        return f"v{(int(newest.name[1:]) if newest else 0) + 1:04d}"

    def register(
        self,
        name: str,
        *,
        parent: str,
        run_id: int | None,
        sha256: str,
        val_loss: float | None = None,
        parent_val_loss: float | None = None,
    ) -> Version:
        """Make a published folder known as a candidate. The same name again changes nothing."""
        with self._db.atomic():
            row, _ = VersionRow.get_or_create(
                name=name,
                defaults={
                    "stage": Stage.CANDIDATE,
                    "parent": parent,
                    "run_id": run_id,
                    "sha256": sha256,
                    "val_loss": val_loss,
                    "parent_val_loss": parent_val_loss,
                    "tainted": erasures.is_erased_from(run_id),
                    "created_at": self._now(),
                },
            )
        return _version(row)

    def deploy_challenger(self, name: str, *, actor: str = "loop", reason: str = "") -> State:
        """Put a version into traffic: as champion if there is none, else under test.

        A champion that learned from erased texts is replaced without a test: it has to go.
        Raises LookupError for an unknown name, and Refused while another test is running or for a
        version that learned from erased texts itself.
        """
        now, limits = self._now(), self._limits()
        try:
            with self._db.atomic():
                version = VersionRow.get_or_none(VersionRow.name == name)
                if version is None:
                    raise LookupError(f"There is no version {name}.")
                if version.stage not in (Stage.CANDIDATE, Stage.RETIRED):
                    raise Refused(f"{name} is in traffic already, as {version.stage}.")
                if version.tainted:
                    raise Refused(f"{name} learned from texts that were erased; it stays out.")
                champion = self.champion()
                self._end_watch("superseded", f"{name} came to be tested", now)
                if champion and champion.tainted:
                    self._replace(champion.name, version, actor, reason)
                elif champion is None:
                    self._move(name, version.stage, Stage.CHAMPION, champion_since=now)
                    why = reason or "the first champion"
                    audit.record(now, actor, "deploy", name, why, (BASE, name))
                else:
                    self._move(name, version.stage, Stage.CHALLENGER)
                    Experiment.create(
                        champion=champion.name,
                        challenger=name,
                        share=limits.challenger_share,
                        limits=asdict(limits),
                        scorer=newest_scorer(),
                        started_at=now,
                    )
                    why = reason or f"challenger of {champion.name}"
                    audit.record(now, actor, "deploy", name, why, ("", "under test"))
        except IntegrityError:
            running = self.challenger()
            raise Refused(
                f"{running.name if running else 'Another version'} is being tested already."
            ) from None
        return self.state()

    def promote(self, *, actor: str, reason: str, expected: str | None = None) -> str:
        """Make the challenger champion, in one transaction. Returns its name.

        The old champion keeps a share of the conversations for a while, to compare with.
        """
        now = self._now()
        with self._db.atomic():
            experiment = self._require_test(expected)
            self._move(experiment.champion, Stage.CHAMPION, Stage.RETIRED, retired_at=now)
            self._move(experiment.challenger, Stage.CHALLENGER, Stage.CHAMPION, champion_since=now)
            self._end(experiment, "promoted", reason, now)
            self._begin_watch(experiment, now)
            change = (experiment.champion, experiment.challenger)
            audit.record(now, actor, "promote", experiment.challenger, reason, change)
        return str(experiment.challenger)

    def retire(self, *, actor: str, reason: str, expected: str | None = None) -> str:
        """End the test without promotion. Returns the challenger's name."""
        now = self._now()
        with self._db.atomic():
            experiment = self._require_test(expected)
            self._move(experiment.challenger, Stage.CHALLENGER, Stage.RETIRED, retired_at=now)
            self._end(experiment, "retired", reason, now)
            change = ("under test", "retired")
            audit.record(now, actor, "retire", experiment.challenger, reason, change)
        return str(experiment.challenger)

    def taint(self, names: Collection[str], reason: str) -> None:
        """Mark versions that learned from erased texts: none of them comes into traffic again.

        A challenger among them is retired at once; a champion serves until it is replaced.
        """
        now = self._now()
        with self._db.atomic():
            VersionRow.update(tainted=True).where(VersionRow.name.in_(names)).execute()
            experiment, champion = self._experiment(), self.champion()
            if experiment and {experiment.champion, experiment.challenger} & set(names):
                self._end_watch("aborted", reason, now)
            if experiment and experiment.kind == TEST and experiment.challenger in names:
                challenger = experiment.challenger
                self._move(challenger, Stage.CHALLENGER, Stage.RETIRED, retired_at=now)
                self._end(experiment, "aborted", reason, now)
                audit.record(now, "loop", "retire", challenger, reason)
            if champion and champion.name in names:
                text = f"{reason}; it answers until the next training has replaced it"
                audit.record(now, "loop", "alert", champion.name, text)

    def rollback_target(self) -> str | None:
        """What a roll-back would put in service: the champion before, or the base model.

        Champions that learned from erased texts are passed over.
        """
        row = VersionRow.get_or_none(VersionRow.stage == Stage.CHAMPION)
        if row is None:
            return None
        seen = {row.name}
        while True:
            # Not "the one with the date before": clocks are set back.
            promotion = Experiment.get_or_none(
                (Experiment.challenger == row.name)
                & (Experiment.outcome == "promoted")
                & (Experiment.ended_at == row.champion_since)
            )
            if promotion is None or promotion.champion in seen:
                return BASE
            row = VersionRow.get(VersionRow.name == promotion.champion)
            if not row.tainted:
                return str(row.name)
            seen.add(row.name)

    def rollback(self, *, actor: str, reason: str, expected: str | None = None) -> str:
        """Put the champion before back in service. Returns its name, `base` if there was none.

        `expected` is the champion the caller saw. A running test ends: its champion is gone.
        """
        now = self._now()
        with self._db.atomic():
            champion, target = self.champion(), self.rollback_target()
            if champion is None or target is None:
                raise Refused("There is no champion to roll back from.")
            if expected is not None and champion.name != expected:
                raise Refused(
                    f"The state has changed: the champion is {champion.name}, not {expected}."
                )
            experiment = self._experiment()
            if experiment and experiment.kind == WATCH:
                self._end(experiment, "rolled_back", reason, now)
            elif experiment:
                self._move(experiment.challenger, Stage.CHALLENGER, Stage.RETIRED, retired_at=now)
                self._end(experiment, "aborted", f"{champion.name} was rolled back", now)
            self._move(champion.name, Stage.CHAMPION, Stage.RETIRED, retired_at=now)
            if target != BASE:
                restored = VersionRow.get(VersionRow.name == target)
                # Keeps its old date: rolling back again goes further back, not forth.
                self._move(target, restored.stage, Stage.CHAMPION)
            change = (champion.name, target)
            audit.record(now, actor, "rollback", " -> ".join(change), reason, change)
        return target

    # -- comparing -------------------------------------------------------------------------

    def compare_models(self) -> Comparison | None:
        """One look at the running experiment, stored with everything it saw; None without one."""
        experiment = self._experiment()
        return self._store(experiment, *self._look(experiment)) if experiment else None

    def auto_promote(self) -> Comparison | None:
        """Compare, and do what the verdict says, as far as the decision mode lets it.

        None without an experiment, and when somebody else has just ended it.
        """
        experiment = self._experiment()
        return self._carry_out(experiment, *self._look(experiment)) if experiment else None

    def guard(self) -> Comparison | None:
        """A quick look between the hourly ones: what does harm is taken out of traffic at once.

        Returns what was seen if it was acted upon, else None; only then it is stored.
        """
        experiment = self._experiment()
        if experiment is None or self._limits().decision_mode == "dry_run":
            return None
        seen, last = self._look(experiment)
        return self._carry_out(experiment, seen, last) if verdicts.is_harmful(seen) else None

    def recompute(self, experiment_id: int, check_number: int) -> tuple[Comparison, Comparison]:
        """A check of the past as it was stored, and the same worked out anew from the log.

        Checks of an experiment are numbered from 1. Raises LookupError for one that is not there.
        """
        experiment = Experiment.get_or_none(Experiment.id == experiment_id)
        if experiment is None:
            raise LookupError(f"There is no experiment {experiment_id}.")
        checks = Check.select().where(Check.experiment == experiment).order_by(Check.id)
        check = checks.offset(check_number - 1).first() if check_number > 0 else None
        if check is None:
            count = checks.count()
            raise LookupError(
                f"Experiment {experiment_id} has {count} checks, none {check_number}."
            )
        then = comparison.from_numbers(check.numbers)
        if not check.last_observation and then.champion.requests:
            raise LookupError(f"Check {check_number} is from before looks could be repeated.")
        ledger = observations.read(self._db, Ledger(experiment_id), check.last_observation)
        return then, self._compare(experiment, ledger, then.hours)

    def plan(self) -> Plan | None:
        """How long the running test will still take, by its latest look; None without one."""
        seen, limits = self._latest()
        if seen is None or limits.decision_rule != "evidence":
            return None
        return plan(seen, limits)

    def notes(self) -> list[str]:
        """What makes the running test doubtful by its latest look, in words."""
        seen, limits = self._latest()
        return verdicts.notes(seen, limits) if seen else []

    def _latest(self) -> tuple[Comparison | None, ExperimentLimits]:
        experiment = self._experiment()
        if experiment is None or experiment.kind != TEST:
            return None, self._limits()
        checks = Check.select().where(Check.experiment == experiment).order_by(Check.id.desc())
        latest = checks.first()
        seen = comparison.from_numbers(latest.numbers) if latest else None
        return seen, self._limits_of(experiment)

    def self_test(
        self, dice: Generator, tell: Callable[[int], None] = lambda done: None, tests: int = 200
    ) -> SelfTest:
        """What the rule would do with two equal versions, by this installation's own traffic.

        Drawn from the latest answers outside a challenger's, at most 20,000 of the last 28 days.
        Raises Refused when there are too few conversations to draw from.
        """
        limits = self._limits()
        seen, hours = observations.recent(self._db, self._now() - _RECENT, _MOST_DRAWN)
        observed = comparison.observe(seen, limits.latency_budget)
        found = len(np.unique(seen["conversation"]))
        if found < limits.min_test_conversations:
            needed = limits.min_test_conversations
            raise Refused(f"The log has {found} recent conversations; a self-test needs {needed}.")
        return self_test(observed, hours, limits, dice, tests=tests, tell=tell)

    def limits_of(self, experiment_id: int) -> ExperimentLimits:
        """What decides this experiment. Raises LookupError."""
        experiment = Experiment.get_or_none(Experiment.id == experiment_id)
        if experiment is None:
            raise LookupError(f"There is no experiment {experiment_id}.")
        return replace(self._limits_of(experiment), challenger_share=experiment.share)

    # -- inside ----------------------------------------------------------------------------

    def _in_stage(self, stage: Stage) -> Version | None:
        row = VersionRow.get_or_none(VersionRow.stage == stage)
        return _version(row) if row else None

    def _experiment(self) -> Any:
        return Experiment.get_or_none(Experiment.ended_at.is_null())

    def _require_test(self, expected: str | None) -> Any:
        experiment = self._experiment()
        if experiment is None or experiment.kind != TEST:
            raise Refused("No test is running.")
        if expected is not None and experiment.challenger != expected:
            raise Refused(
                f"The state has changed: the challenger is {experiment.challenger}, not {expected}."
            )
        return experiment

    def _limits_of(self, experiment: Any) -> ExperimentLimits:
        """As frozen at its start, but who decides is as set today.

        An experiment from before there was a rule to choose keeps the plain one.
        """
        frozen = ExperimentLimits(**{"decision_rule": "plain", **experiment.limits})
        return replace(frozen, decision_mode=self._limits().decision_mode)

    def _look(self, experiment: Any) -> tuple[Comparison, int]:
        """What there is to see now, and the newest observation among it."""
        known = self._ledger  # other threads may look, too
        if known.experiment_id != experiment.id:
            known = Ledger(experiment.id)
        self._ledger = ledger = observations.read(self._db, known)
        hours = (self._now() - experiment.started_at).total_seconds() / 3600
        return self._compare(experiment, ledger, max(0.0, hours)), ledger.last

    def _compare(self, experiment: Any, ledger: Ledger, hours: float) -> Comparison:
        limits = replace(self._limits_of(experiment), challenger_share=experiment.share)
        champion, challenger = (
            comparison.observe(ledger.arm(arm), limits.latency_budget)
            for arm in (Arm.CHAMPION, Arm.CHALLENGER)
        )
        names = (experiment.champion, experiment.challenger)
        judge = verdicts.on_watch if experiment.kind == WATCH else verdicts.on_test
        return comparison.compare(experiment.id, names, champion, challenger, hours, limits, judge)

    def _carry_out(self, experiment: Any, seen: Comparison, last: int) -> Comparison | None:
        """Do what the verdict says and store the look, in one transaction."""
        acts = seen.mode == "auto" or (seen.mode == "approve" and verdicts.needs_no_yes(seen))
        if seen.decision == "continue" or not acts:
            return self._store(experiment, seen, last)
        who = {"actor": "loop", "reason": seen.text, "expected": seen.challenger.version}
        try:
            with self._db.atomic():
                if seen.decision == "keep":
                    now = self._now()
                    self._end(experiment, "kept", seen.text, now)
                    audit.record(now, "loop", "keep", seen.challenger.version, seen.text)
                else:
                    getattr(self, seen.decision)(**who)
                return self._store(experiment, replace(seen, acted=True), last)
        except Refused:
            return None

    def _store(self, experiment: Any, seen: Comparison, last: int) -> Comparison:
        Check.create(
            experiment=experiment,
            at=self._now(),
            decision=seen.decision,
            reason=seen.reason,
            lift=seen.lift,
            numbers=asdict(seen),
            last_observation=last,
            acted=seen.acted,
        )
        return seen

    def _begin_watch(self, tested: Any, now: datetime) -> None:
        limits = self._limits_of(tested)
        if limits.bake_hours:
            Experiment.create(
                kind=WATCH,
                champion=tested.champion,
                challenger=tested.challenger,
                share=1 - limits.bake_share,
                limits=asdict(limits),
                scorer=tested.scorer,
                started_at=now,
            )

    def _end_watch(self, outcome: str, reason: str, now: datetime) -> None:
        experiment = self._experiment()
        if experiment and experiment.kind == WATCH:
            self._end(experiment, outcome, reason, now)

    def _replace(self, champion: str, version: Any, actor: str, reason: str) -> None:
        if running := self._experiment():
            raise Refused(f"{running.challenger} is being tested already.")
        now = self._now()
        self._move(champion, Stage.CHAMPION, Stage.RETIRED, retired_at=now)
        self._move(version.name, version.stage, Stage.CHAMPION, champion_since=now)
        why = f"in place of {champion}, which learned from texts that were erased"
        audit.record(now, actor, "deploy", version.name, f"{reason}; {why}" if reason else why)

    def _move(self, name: str, seen: str, to: Stage, **dates: datetime) -> None:
        """Compare-and-set of one version's stage."""
        row = (VersionRow.name == name) & (VersionRow.stage == seen)
        if VersionRow.update(stage=to, **dates).where(row).execute() != 1:
            raise Refused(f"The state has changed: {name} is no longer {seen}.")

    def _end(self, experiment: Any, outcome: str, reason: str, now: datetime) -> None:
        is_open = (Experiment.id == experiment.id) & Experiment.ended_at.is_null()
        ended = (
            Experiment.update(ended_at=now, outcome=outcome, reason=reason).where(is_open).execute()
        )
        if ended != 1:
            raise Refused("The state has changed: the test has ended.")


def _version(row: Any) -> Version:
    return Version(
        name=row.name,
        stage=Stage(row.stage),
        parent=row.parent,
        run_id=row.run_id,
        created_at=row.created_at,
        champion_since=row.champion_since,
        val_loss=row.val_loss,
        parent_val_loss=row.parent_val_loss,
        tainted=row.tainted,
    )
