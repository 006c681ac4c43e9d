"""ContinuousLearningLoop: one step of learning at a time.

    an open training run?  take it one step further: generate -> train -> gate -> deploy
    a running experiment?  compare, then promote, retire or keep testing
    otherwise              check the triggers; one that fires opens a training run

Each step is stored before it counts, so a crash loses one step and the next iteration repeats it.
Writes training_run, iteration and due. A run is worked on by one process at a time: it carries its
owner, and the owner's heartbeat.
"""

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import psutil
from peewee import Database, IntegrityError

from cl import files, lineage
from cl.ab_test import ABTestManager, Refused
from cl.db import audit, erasures, probes
from cl.db.tables import Due, Iteration, TrainingRun
from cl.forgetting import BeingErased, Forgetting
from cl.model.engine.contract import SERVING_FILE, EngineError
from cl.model.rehearsal import Answers
from cl.model.training.measured import PROBES, lines_of
from cl.model.training_job import CHECKPOINT, Progress, TrainingCancelled, TrainingFailed
from cl.model.versions import BadVersion, VersionStore, add_files
from cl.records import (
    BASE,
    Comparison,
    GateCheck,
    IterationReport,
    Message,
    RunStatus,
    Sampling,
    Step,
    TrainingResult,
    TriggerResult,
    Verdict,
)
from cl.retrain_trigger import RetrainTrigger
from cl.rules import gating
from cl.rules.gating import Measured
from cl.rules.model_card import model_card
from cl.rules.quiet_hours import may_begin
from cl.scoring import Scoring
from cl.thresholds import Thresholds
from cl.training_data import TrainingDataGenerator
from cl.usage_logger import UsageLogger

log = logging.getLogger(__name__)

_STALE = timedelta(minutes=2)  # a heartbeat older than this: its owner is gone
_MOST_ATTEMPTS = 3
_WAITS = {
    "approve": "it waits for an admin's yes.",
    "dry_run": "in a dry run nothing is done.",
}
_CANARY = "What can you help me with?"


class Trainer(Protocol):
    """What the loop needs of the trainer."""

    def train(
        self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
    ) -> TrainingResult: ...

    def measure(
        self, data: Path, folder: Path, parent: str, keep_going: Callable[[Progress], bool]
    ) -> Measured: ...


class Serving(Answers, Protocol):
    """What the loop needs of the engine."""

    def ensure(self, version: str) -> None: ...

    def drop(self, version: str) -> None: ...

    def loaded(self) -> list[str]: ...

    def status(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Parts:
    """What the loop works with."""

    database: Database
    logger: UsageLogger
    scoring: Scoring
    data: TrainingDataGenerator
    trigger: RetrainTrigger
    ab_test: ABTestManager
    forgetting: Forgetting
    trainer: Trainer
    engine: Serving
    versions: VersionStore
    thresholds: Thresholds
    runs: Path
    clock: Callable[[], datetime]


class _TakenOver(RuntimeError):
    """Another process has made this run its own."""


class ContinuousLearningLoop:
    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._now = parts.clock
        self.doing = ""  # what a long step is at right now, for whoever watches
        self._one_step = threading.Lock()
        self._me = _owner()
        self._told: dict[str, Any] = {}
        self._begun_at: dict[int, int] = {}  # the step a run's training was first seen at

    def run_iteration(self) -> IterationReport:
        """At most one step, and one row that says what it was."""
        with self._one_step:
            try:
                report = self._step()
            finally:
                self.doing = ""
            self._record(report)
        return report

    def _step(self) -> IterationReport:
        run = _open_run()
        if run is not None:
            return self._advance(run)
        if self._p.ab_test.is_running():
            return self._judge()
        wanted = self._p.trigger.check_triggers()
        if not wanted.fired:
            return IterationReport(Step.WAITED, wanted.reason)
        self._open_run(wanted, "loop")
        return IterationReport(Step.REQUESTED, wanted.reason, {"trigger": wanted.trigger})

    def guard(self) -> None:
        """Take out of traffic what does harm, between the hourly looks, whatever else goes on."""
        seen = self._p.ab_test.guard()
        if seen is not None:
            self._record(_judged(seen))

    # -- asking for and stopping a training --------------------------------------------------

    def request_training(self, actor: str, reason: str) -> int:
        """Open a training run by hand, whatever the triggers say. Returns its id.

        Raises Refused while a run is open or a test is running.
        """
        challenger = self._p.ab_test.challenger()
        if challenger:
            raise Refused(f"{challenger.name} is being tested; promote or retire it first.")
        with self._p.database.atomic():
            run_id = self._open_run(TriggerResult(True, "manual", reason), actor)
            audit.record(self._now(), actor, "retrain", f"run {run_id}", reason)
        return run_id

    def cancel_training(self, actor: str, reason: str, expected: int | None = None) -> None:
        """Have the open run stopped; its process notices within seconds.

        Raises Refused without one, or when it is another one than the caller saw.
        """
        with self._p.database.atomic():
            run = _open_run()
            if run is None:
                raise Refused("No training is running.")
            if expected is not None and run.id != expected:
                raise Refused(f"The state has changed: run {run.id} is at work, not {expected}.")
            if run.cancel:
                raise Refused(f"Run {run.id} is being cancelled already.")
            TrainingRun.update(cancel=True).where(TrainingRun.id == run.id).execute()
            audit.record(self._now(), actor, "cancel training", f"run {run.id}", reason)

    def claim_due(self, name: str, every: timedelta) -> bool:
        """Whether this piece of repeated work is due and now ours: true for one caller only."""
        now = self._now()
        _, is_first = Due.get_or_create(name=name, defaults={"last_at": now})
        if is_first:
            return True
        # A clock set back must not block the work: a date in the future counts as long ago.
        is_due = (Due.last_at <= now - every) | (Due.last_at > now)
        return bool(Due.update(last_at=now).where((Due.name == name) & is_due).execute())

    def forget_what_is_due(self) -> None:
        """Finish erasures that were broken off; once a day, delete what is too old."""
        self._p.forgetting.finish_broken_off()
        if self.claim_due("retention", timedelta(days=1)):
            self._p.forgetting.expire()

    def reconcile(self) -> None:
        """Have the engine hold what the database wants: base, champion, challenger and the way back."""
        champion, challenger = self._p.ab_test.champion(), self._p.ab_test.challenger()
        wanted = {v.name for v in (champion, challenger) if v} | self._p.ab_test.in_traffic()
        wanted.add(BASE)
        loaded = set(self._p.engine.loaded())
        for name in sorted(wanted - loaded):
            try:
                self._p.engine.ensure(name)
            except EngineError as problem:
                # An inference server is down: the others answer, and the loop goes on.
                log.warning("%s is not loaded everywhere: %s", name, problem)
        target = self._p.ab_test.rollback_target()
        for name in loaded - wanted - {target}:
            self._p.engine.drop(name)
        self._tell_how_it_runs()

    def _tell_how_it_runs(self) -> None:
        """For other processes: how the engine of this one runs. Written when that changes."""
        found = self._p.engine.status()
        told = {name: found[name] for name in ("kind", "stage", "why", "loaded")}
        if told != self._told:
            self._told = told
            files.write_json(self._p.runs.parent / SERVING_FILE, {**told, "pid": os.getpid()})

    # -- one step of a run ------------------------------------------------------------------

    def _open_run(self, wanted: TriggerResult, actor: str) -> int:
        try:
            run = TrainingRun.create(
                trigger=wanted.trigger,
                reason="; ".join([wanted.reason, *_rebuild()]),
                status=RunStatus.REQUESTED,
                requested_by=actor,
                last_interaction=self._p.logger.last_id(),
                started_at=self._now(),
            )
        except IntegrityError:
            raise Refused("A training is running already.") from None
        if wanted.trigger == "error_rate":
            # Retraining is often the wrong medicine for errors: a person should look.
            audit.record(self._now(), "loop", "alert", f"run {run.id}", wanted.reason)
        return int(run.id)

    def _advance(self, run: Any) -> IterationReport:
        if not self._claim(run):
            return IterationReport(Step.WAITED, f"Run {run.id} is being worked on by {run.owner}.")
        if run.cancel:
            return self._close(
                run, RunStatus.CANCELLED, Step.CANCELLED, "The training was cancelled."
            )
        if run.attempts >= _MOST_ATTEMPTS:  # counted before this one
            reason = f"Broken off {run.attempts} times at the same step; given up."
            return self._close(run, RunStatus.FAILED, Step.FAILED, reason)
        try:
            return self._take_step(run)
        except _TakenOver as problem:
            return IterationReport(Step.WAITED, str(problem))

    def _take_step(self, run: Any) -> IterationReport:
        """Whatever this raises that can be expected of a step ends the run, with that reason."""
        steps = {
            RunStatus.REQUESTED: self._generate,
            RunStatus.GENERATED: self._train,
            RunStatus.TRAINED: self._gate,
            RunStatus.PUBLISHED: self._deploy,
        }
        try:
            return steps[RunStatus(run.status)](run)
        except TrainingCancelled as problem:
            return self._close(run, RunStatus.CANCELLED, Step.CANCELLED, str(problem))
        except (TrainingFailed, BadVersion, Refused) as problem:
            return self._close(run, RunStatus.FAILED, Step.FAILED, str(problem))
        except OSError as problem:
            return self._close(run, RunStatus.FAILED, Step.FAILED, f"The disk said no: {problem}.")

    def _generate(self, run: Any) -> IterationReport:
        folder = self._folder(run) / "data"

        def tell(text: str) -> None:
            if not self._is_ours(run, text):
                raise TrainingCancelled("The training was cancelled.")

        try:
            with self._p.forgetting.at_rest():
                self._p.scoring.retrain(tell)
                made = self._p.data.generate(folder, run.last_interaction, tell)
                for rebuild in _rebuild():
                    lineage.note(folder, rebuild=rebuild)
                self._store(run, data=asdict(made))
        except BeingErased as problem:
            self._move(run, RunStatus.REQUESTED)
            return IterationReport(Step.WAITED, str(problem), {"run": run.id})
        counts = {
            "train": made.train,
            "val": made.val,
            "corrections": made.corrections,
            "sha256": made.sha256,
        }
        if not made.enough:
            text = f"Not enough to learn from: {made.reason}."
            return self._close(run, RunStatus.NOT_ENOUGH_DATA, Step.NOT_ENOUGH_DATA, text)
        self._move(run, RunStatus.GENERATED, version=self._p.ab_test.next_name())
        text = f"{made.train} examples to train on and {made.val} to validate, {made.corrections} of them corrections."
        text = " ".join([text, *(f"A {rebuild}." for rebuild in _rebuild())])
        return IterationReport(Step.GENERATED, text, {"run": run.id, **counts})

    def _train(self, run: Any) -> IterationReport:
        hours, now = self._p.thresholds.trigger().quiet_hours, self._now().astimezone().time()
        if run.trigger != "manual" and not may_begin(hours, now):
            self._move(run, RunStatus.GENERATED)
            return IterationReport(
                Step.WAITED, f"The training waits for the quiet hours, {hours}.", {"run": run.id}
            )
        champion = self._p.ab_test.champion()
        # A champion that has to go is nothing to beat: what would follow without a rebuild is.
        goes = champion is not None and champion.tainted
        parent = self._p.ab_test.rollback_target() if goes else champion and champion.name
        parent = parent or BASE
        folder = self._folder(run)
        result = self._p.trainer.train(
            folder / "data", folder, parent, lambda p: self._beat(run, p)
        )
        self._move(
            run,
            RunStatus.TRAINED,
            result={"parent": parent, **asdict(result)},
            trained_at=self._now(),
        )
        text = (
            f"Trained {run.version} in {result.seconds:.0f} s ({result.steps} steps): loss on held-out "
            f"answers {result.val_loss:.3f} nats a token, the base model has {result.base_val_loss:.3f}."
        )
        return IterationReport(
            Step.TRAINED, text, {"run": run.id, "version": run.version, **asdict(result)}
        )

    def _gate(self, run: Any) -> IterationReport:
        """Measure the candidate beside its parent, judge, and publish what passes."""
        folder, parent = self._folder(run), run.result["parent"]
        found = self._p.trainer.measure(
            folder / "data", folder, parent, lambda p: self._beat(run, p)
        )
        checks = gating.checks(found, self._p.thresholds.gate())
        said = gating.verdict(checks)
        self._store(run, result={**run.result, "gate": [asdict(check) for check in checks]})
        reason = gating.sentence(checks)
        if said is Verdict.FAILED:
            text = f"{run.version} did not pass the gate: {reason}."
            return self._close(run, RunStatus.REJECTED, Step.REJECTED, text)
        if said is Verdict.INCONCLUSIVE:
            text = f"There is too little evidence that {run.version} is better: {reason}."
            return self._close(run, RunStatus.REJECTED, Step.REJECTED, text)
        self._publish(run, parent, found, checks)
        text = f"{run.version} passed the gate: {reason}."
        return IterationReport(Step.PUBLISHED, text, {"run": run.id, "version": run.version})

    def _publish(self, run: Any, parent: str, found: Measured, checks: Sequence[GateCheck]) -> None:
        """The folder first, then the row that names it, and what later versions must know."""
        folder = self._folder(run)
        gate = {"parent": parent, "checks": [asdict(check) for check in checks]}
        card = model_card(run.version, self._p.versions.base, run.data, run.result, checks)
        add_files(folder / "candidate", {"gate.json": _json(gate), "README.md": card})
        sha256 = self._p.versions.publish(folder / "candidate", run.version)
        losses = [(row.candidate, row.parent) for row in found.held_out]
        with self._p.database.atomic():
            self._p.ab_test.register(
                run.version,
                parent=parent,
                run_id=run.id,
                sha256=sha256,
                val_loss=_mean(loss for loss, _ in losses),
                parent_val_loss=_mean(loss for _, loss in losses),
            )
            taught = lines_of(folder / "data" / PROBES)
            probes.remember(run.version, [p["id"] for p in taught if p["kind"] == "taught"])
            self._move(run, RunStatus.PUBLISHED)

    def _deploy(self, run: Any) -> IterationReport:
        """Load it, hear it speak, then let people meet it."""
        self._p.engine.ensure(run.version)
        champion = self._p.ab_test.champion()
        for name in dict.fromkeys((champion.name if champion else BASE, run.version)):
            canary = [[Message(role="user", content=_CANARY)]]
            (answer, _), *_rest = self._p.engine.ask_all(name, canary, Sampling(max_tokens=24))
            if not answer.strip():
                text = f"{name} gave an empty answer to a simple question; {run.version} stays out."
                return self._close(run, RunStatus.REJECTED, Step.REJECTED, text)
        rebuild = _rebuild()
        in_traffic = next((v for v in self._p.ab_test.versions() if v.name == run.version), None)
        if in_traffic is None or in_traffic.stage not in ("champion", "challenger"):
            self._p.ab_test.deploy_challenger(
                run.version, actor="loop", reason=f"run {run.id}: {run.reason}"
            )
        challenger = self._p.ab_test.challenger()
        role = "challenger" if challenger and challenger.name == run.version else "champion"
        erasures.settle(run.id)
        text = f"{'; '.join([f'{run.version} is in traffic as {role}', *rebuild])}."
        return self._close(run, RunStatus.DEPLOYED, Step.DEPLOYED, text)

    def _judge(self) -> IterationReport:
        seen = self._p.ab_test.auto_promote()
        if seen is None:
            return IterationReport(Step.WAITED, "The test has just ended.")
        return _judged(seen)

    # -- rows -------------------------------------------------------------------------------

    def _claim(self, run: Any) -> bool:
        """Make this process the run's owner, unless another one lives and works on it."""
        if (
            run.owner
            and run.owner != self._me
            and not _is_gone(run.owner, run.heartbeat_at, self._now())
        ):
            return False
        mine = TrainingRun.update(
            owner=self._me, heartbeat_at=self._now(), attempts=run.attempts + 1
        )
        seen = (TrainingRun.id == run.id) & (TrainingRun.owner == run.owner)
        claimed = mine.where(seen & (TrainingRun.attempts == run.attempts)).execute()
        return bool(claimed == 1)

    def _beat(self, run: Any, progress: Progress) -> bool:
        """Sign of life while the trainer works; false when the run was cancelled or taken away.

        A training that gets further each time is not given up, however often it is broken off.
        """
        if progress.stage != "training":
            return self._is_ours(run, describe(progress))
        began = self._begun_at.setdefault(run.id, progress.saved)
        got_further = {"attempts": 1} if progress.saved > began else {}
        return self._is_ours(run, describe(progress), **got_further)

    def _is_ours(self, run: Any, doing: str, **values: Any) -> bool:
        """Tell what a long step is at, and that its owner lives; false when it should stop."""
        self._tell(doing)
        mine = (TrainingRun.id == run.id) & (TrainingRun.owner == self._me)
        alive = TrainingRun.update(heartbeat_at=self._now(), **values).where(mine).execute() == 1
        return alive and not bool(TrainingRun.get_by_id(run.id).cancel)

    def _store(self, run: Any, **values: Any) -> None:
        mine = (
            (TrainingRun.id == run.id)
            & (TrainingRun.owner == self._me)
            & TrainingRun.ended_at.is_null()
        )
        if TrainingRun.update(**values).where(mine).execute() != 1:
            raise _TakenOver(f"Run {run.id} was taken over by another process.")
        for name, value in values.items():
            setattr(run, name, value)

    def _move(self, run: Any, status: RunStatus, **values: Any) -> None:
        """Take the run one status further and let go of it: whoever iterates next goes on."""
        self._store(run, status=status, attempts=0, owner="", **values)

    def _close(self, run: Any, status: RunStatus, step: Step, text: str) -> IterationReport:
        self._store(run, status=status, outcome=text, ended_at=self._now())
        (self._folder(run) / CHECKPOINT).unlink(missing_ok=True)
        return IterationReport(step, text, {"run": run.id, "version": run.version})

    def _record(self, report: IterationReport) -> None:
        last = Iteration.select().order_by(Iteration.id.desc()).first()
        quiet = report.step in (Step.WAITED, Step.KEPT_TESTING)
        if quiet and last is not None and last.step == report.step:
            Iteration.update(
                at=self._now(),
                reason=report.reason,
                details=report.details,
                repeats=Iteration.repeats + 1,
            ).where(Iteration.id == last.id).execute()
        else:
            Iteration.create(
                at=self._now(), step=report.step, reason=report.reason, details=report.details
            )
        log.info("%s: %s %s", report.step, report.reason, json.dumps(report.details, default=str))

    def _tell(self, text: str) -> None:
        self.doing = text

    def _folder(self, run: Any) -> Path:
        return self._p.runs / f"{run.id:04d}"


def _judged(seen: Comparison) -> IterationReport:
    """What a look at an experiment led to."""
    steps = {
        "promote": Step.PROMOTED,
        "retire": Step.RETIRED,
        "rollback": Step.ROLLED_BACK,
        "keep": Step.KEPT,
    }
    step = steps[seen.decision] if seen.acted else Step.KEPT_TESTING
    waits = seen.decision != "continue" and not seen.acted
    text = f"{seen.challenger.version} against {seen.champion.version}: {seen.text}"
    if waits:
        text += f" The verdict is to {seen.decision}; {_WAITS[seen.mode]}"
    return IterationReport(
        step, text, {"lift": seen.lift, "hours": seen.hours, "experiment": seen.experiment_id}
    )


def describe(progress: Progress) -> str:
    """A training's progress in one line."""
    if progress.share is None:
        return progress.stage
    facts = [f"{progress.stage}: step {progress.step} of {progress.steps}"]
    facts += [f"loss {progress.loss:.2f}"] if progress.loss is not None else []
    facts += [f"{progress.tokens_per_s:.0f} tokens/s"] if progress.tokens_per_s else []
    facts += [f"{progress.seconds_left:.0f} s left"] if progress.seconds_left is not None else []
    return ", ".join(facts)


def _rebuild() -> list[str]:
    """What a training is besides, in words: a rebuild, while a version in traffic must go."""
    waiting = erasures.waiting()
    return [waiting.rebuild] if waiting.erasures else []


def _open_run() -> Any:
    return TrainingRun.get_or_none(TrainingRun.ended_at.is_null())


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _owner() -> str:
    """This process, told apart from a later one with the same number by its start time."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def _is_gone(owner: str, heartbeat: datetime | None, now: datetime) -> bool:
    host, pid, started = owner.rsplit(":", 2)
    if host == socket.gethostname():
        try:
            return bool(abs(psutil.Process(int(pid)).create_time() - float(started)) > 1.5)
        except psutil.NoSuchProcess:
            return True
    return heartbeat is None or now - heartbeat > _STALE
