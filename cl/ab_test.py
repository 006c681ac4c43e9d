"""ABTestManager: which version answers whom, and which one stays.

Writes version, experiment and check. Every change is one transaction with its audit line, made
only if the rows still are what the caller saw; the database itself refuses a second champion,
challenger or running experiment.
"""

import random
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import datetime
from typing import Any

from peewee import Database, IntegrityError

from cl.db import audit, erasures
from cl.db.scorers import newest_scorer
from cl.db.tables import Check, Experiment, Feedback
from cl.db.tables import Interaction as Row
from cl.db.tables import Version as VersionRow
from cl.records import BASE, Arm, Comparison, Route, Stage, State, Status, Version
from cl.rules import comparison
from cl.rules.assignment import sees_challenger
from cl.rules.deployment import state_of
from cl.settings import ExperimentLimits


class Refused(RuntimeError):
    """This cannot be done now; the text says why. Nothing was changed."""


class ABTestManager:
    def __init__(
        self,
        database: Database,
        limits: ExperimentLimits,
        clock: Callable[[], datetime],
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._db = database
        self._limits = limits
        self._now = clock
        self._dice = dice

    # -- who is who ------------------------------------------------------------------------

    def state(self) -> State:
        champion, challenger = self.champion(), self.challenger()
        ended = Experiment.select().where(Experiment.ended_at.is_null(False))
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
        return self._experiment() is not None

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
        now = self._now()
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
                if champion and champion.tainted:
                    self._replace(champion.name, version, actor, reason)
                elif champion is None:
                    self._move(name, version.stage, Stage.CHAMPION, champion_since=now)
                    audit.record(now, actor, "deploy", name, reason or "the first champion")
                else:
                    self._move(name, version.stage, Stage.CHALLENGER)
                    Experiment.create(
                        champion=champion.name,
                        challenger=name,
                        share=self._limits.challenger_share,
                        limits=asdict(self._limits),
                        scorer=newest_scorer(),
                        started_at=now,
                    )
                    audit.record(
                        now, actor, "deploy", name, reason or f"challenger of {champion.name}"
                    )
        except IntegrityError:
            running = self.challenger()
            raise Refused(
                f"{running.name if running else 'Another version'} is being tested already."
            ) from None
        return self.state()

    def promote(self, *, actor: str, reason: str, expected: str | None = None) -> str:
        """Make the challenger champion, in one transaction. Returns its name."""
        now = self._now()
        with self._db.atomic():
            experiment = self._require_experiment(expected)
            self._move(experiment.champion, Stage.CHAMPION, Stage.RETIRED, retired_at=now)
            self._move(experiment.challenger, Stage.CHALLENGER, Stage.CHAMPION, champion_since=now)
            self._end(experiment, "promoted", reason, now)
            audit.record(now, actor, "promote", experiment.challenger, reason)
        return str(experiment.challenger)

    def retire(self, *, actor: str, reason: str, expected: str | None = None) -> str:
        """End the test without promotion. Returns the challenger's name."""
        now = self._now()
        with self._db.atomic():
            experiment = self._require_experiment(expected)
            self._move(experiment.challenger, Stage.CHALLENGER, Stage.RETIRED, retired_at=now)
            self._end(experiment, "retired", reason, now)
            audit.record(now, actor, "retire", experiment.challenger, reason)
        return str(experiment.challenger)

    def taint(self, names: Collection[str], reason: str) -> None:
        """Mark versions that learned from erased texts: none of them comes into traffic again.

        A challenger among them is retired at once; a champion serves until it is replaced.
        """
        now = self._now()
        with self._db.atomic():
            VersionRow.update(tainted=True).where(VersionRow.name.in_(names)).execute()
            experiment, champion = self._experiment(), self.champion()
            if experiment and experiment.challenger in names:
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
            if experiment:
                self._move(experiment.challenger, Stage.CHALLENGER, Stage.RETIRED, retired_at=now)
                self._end(experiment, "aborted", f"{champion.name} was rolled back", now)
            self._move(champion.name, Stage.CHAMPION, Stage.RETIRED, retired_at=now)
            if target != BASE:
                restored = VersionRow.get(VersionRow.name == target)
                # Keeps its old date: rolling back again goes further back, not forth.
                self._move(target, restored.stage, Stage.CHAMPION)
            audit.record(now, actor, "rollback", f"{champion.name} -> {target}", reason)
        return target

    # -- comparing -------------------------------------------------------------------------

    def compare_models(self) -> Comparison | None:
        """One look at the running experiment, stored with everything it saw; None without one."""
        experiment = self._experiment()
        if experiment is None:
            return None
        now = self._now()
        seen = comparison.compare(
            experiment.id,
            (experiment.champion, experiment.challenger),
            _requests(experiment.id, Arm.CHAMPION, experiment.scorer),
            _requests(experiment.id, Arm.CHALLENGER, experiment.scorer),
            max(0.0, (now - experiment.started_at).total_seconds() / 3600),
            ExperimentLimits(**experiment.limits),
        )
        Check.create(
            experiment=experiment,
            at=now,
            decision=seen.decision,
            reason=seen.reason,
            lift=seen.lift,
            numbers=asdict(seen),
        )
        return seen

    def auto_promote(self) -> Comparison | None:
        """Compare, and do what the verdict says."""
        seen = self.compare_models()
        if seen and seen.decision == "promote":
            self.promote(actor="loop", reason=seen.text, expected=seen.challenger.version)
        elif seen and seen.decision == "retire":
            self.retire(actor="loop", reason=seen.text, expected=seen.challenger.version)
        return seen

    # -- inside ----------------------------------------------------------------------------

    def _in_stage(self, stage: Stage) -> Version | None:
        row = VersionRow.get_or_none(VersionRow.stage == stage)
        return _version(row) if row else None

    def _experiment(self) -> Any:
        return Experiment.get_or_none(Experiment.ended_at.is_null())

    def _require_experiment(self, expected: str | None) -> Any:
        experiment = self._experiment()
        if experiment is None:
            raise Refused("No test is running.")
        if expected is not None and experiment.challenger != expected:
            raise Refused(
                f"The state has changed: the challenger is {experiment.challenger}, not {expected}."
            )
        return experiment

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


def _requests(experiment_id: int, arm: Arm, scorer: str) -> list[comparison.Request]:
    """One arm's requests; those cancelled before the first word or cut by a restart are left out."""
    started = (Row.status == Status.CANCELLED) & Row.first_token_s.is_null(False)
    counted = Row.status.in_((Status.COMPLETE, Status.ERROR)) | started
    rows: Any = (
        Row.select(
            Row.conversation, Row.quality, Row.scorer, Row.latency_s, Row.status, Feedback.thumb
        )
        .left_outer_join(Feedback)
        .where((Row.experiment_id == experiment_id) & (Row.arm == arm) & counted)
        .order_by(Row.id)
    )
    return [
        comparison.Request(
            conversation_id=conversation,
            quality=score if by == scorer else None,
            latency_s=latency or 0.0,
            thumb=thumb or 0,
            is_error=status == Status.ERROR,
        )
        for conversation, score, by, latency, status, thumb in rows.tuples()
    ]


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
