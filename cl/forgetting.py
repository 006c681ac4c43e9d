"""Forgetting: a person's texts when they ask for it, and everybody's when they are too old.

    erase   the person, everywhere, and whatever had been learned from them out of traffic
    expire  what is older than it may be, in small batches; versions may keep what they learned

What is to be erased is written down first (`erasing-*.json`), and which training runs and versions
learned from it before the first row goes. So an erasure that was broken off is finished by the same
command or by the running app. While texts go, no training set is made, and the other way round.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from peewee import Database, PostgresqlDatabase, chunked

from cl import files, lineage
from cl.ab_test import ABTestManager
from cl.accounts import Accounts
from cl.db import audit, digests, removal
from cl.db.tables import (
    Conversation,
    Erasure,
    Experiment,
    Feedback,
    Reading,
    Review,
    Told,
    TrainingRun,
    Version,
)
from cl.db.tables import Interaction as Row
from cl.records import RunStatus

_WAIT_SECONDS = 300  # for a training set that is being made
_MOST_BYTES = 100_000_000  # of a database that is written anew while others wait
_EMPTYING_SECONDS, _BETWEEN_SECONDS = 60, 0.5  # for usage.db-wal to be free
_REASON = "texts it learned from were erased"


class BeingErased(RuntimeError):
    """Texts are being erased just now; a training set has to wait."""


@dataclass(frozen=True)
class Erased:
    """What an erasure found and did. `champion` learned from the texts and is still in service."""

    alias: str
    interactions: int
    lines: int  # of training sets and the rehearsal cache
    runs: list[int] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    champion: str | None = None
    backups: list[str] = field(default_factory=list)  # these still hold the texts
    waits_for_start: bool = False  # usage.db is written anew at the next start of the app


@dataclass(frozen=True)
class _Task:
    """An erasure that has begun, as its file says."""

    number: int
    name: str
    actor: str
    reason: str
    ids: list[int]  # interactions whose texts hold something of the person
    backups: list[str]

    @property
    def alias(self) -> str:
        return f"erased-{self.number}"


class Forgetting:
    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        ab_test: ABTestManager,
        clock: Callable[[], datetime],
        data_dir: Path,
        retention_days: int = 0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._db = database
        self._accounts = accounts
        self._ab_test = ab_test
        self._now = clock
        self._folder = data_dir
        self._retention_days = retention_days
        self._pause = pause

    # -- one person --------------------------------------------------------------------------

    def knows(self, name: str) -> bool:
        """Whether there is anything of this person."""
        return bool(
            self._file(name).exists()
            or self._accounts.find(name)
            or Conversation.select().where(Conversation.user == name).exists()
            or Row.select().where(Row.user == name).exists()
            or Feedback.select().where(Feedback.user == name).exists()
            or Review.select().where(Review.user == name).exists()
        )

    def erase(self, name: str, actor: str, reason: str = "") -> Erased:
        """Remove a person and their texts everywhere; finishes an erasure that was broken off.

        Raises LookupError for an unknown name and ValueError for the last admin. Weights hold no
        texts: what learned from the person is kept out of traffic, and a champion is rebuilt.
        """
        with self._alone(_WAIT_SECONDS):
            if not self.knows(name):
                raise LookupError(f"There is nobody called {name}, and nobody of that name wrote.")
            if not self._file(name).exists():
                self._accounts.refuse_last_admin(name)
                self._write_down(name, actor, reason)
            return self._finish(self._file(name))

    def finish_broken_off(self) -> None:
        """Go on with erasures whose process died; nothing while another process is at one."""
        if not self._begun():
            return
        try:
            with self._alone(0):
                for path in self._begun():
                    self._finish(path)
        except BeingErased:
            return

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Nothing is erased within. Raises BeingErased while something is, or waits to be finished."""
        with self._alone(0):
            if self._begun():
                raise BeingErased("An erasure was broken off and has to be finished first.")
            yield

    def _write_down(self, name: str, actor: str, reason: str) -> None:
        last = Erasure.select().order_by(Erasure.id.desc()).first()
        number = (last.id if last else 0) + 1
        own: Any = Row.select(Row.conversation).where(Row.user == name)
        said: Any = Feedback.select(Feedback.interaction).where(Feedback.user == name)
        # Later lines of a conversation hold its earlier turns.
        rows: Any = Row.select(Row.id).where(
            self._is_of(name) | Row.conversation.in_(own) | Row.id.in_(said)
        )
        task = {
            "number": number,
            "name": name,
            "actor": actor,
            "reason": reason,
            "ids": [id_ for (id_,) in rows.tuples()],
            "backups": [str(path) for path in _backups_with(self._folder, name)],
        }
        files.write_json(self._file(name), task)

    def _finish(self, path: Path) -> Erased:
        """Every step may be done a second time."""
        task = _Task(**json.loads(path.read_text(encoding="utf-8")))
        self._take_out_of_service(task)
        self._remove_rows(task)
        gone = self._gone() | set(task.ids)
        lines = lineage.take_out(self._folder, gone)
        self._empty_files()
        row = Erasure.get_by_id(task.number)
        champion = self._ab_test.champion()
        path.unlink()
        return Erased(
            alias=task.alias,
            interactions=row.interactions,
            lines=lines,
            runs=row.runs,
            versions=row.versions,
            champion=champion.name if champion and champion.name in row.versions else None,
            backups=task.backups,
            waits_for_start=self._due.exists(),
        )

    def _take_out_of_service(self, task: _Task) -> None:
        """Note what learned from the person, and stop what of it can be stopped; all or nothing."""
        if Erasure.get_or_none(Erasure.id == task.number):
            return
        runs = self._runs(task.ids)
        with self._db.atomic():
            versions = [row.name for row in Version.select().where(Version.run_id.in_(runs))]
            Erasure.create(
                id=task.number,
                at=self._now(),
                actor=task.actor,
                interactions=Row.select().where(self._is_of(task.name)).count(),
                runs=runs,
                versions=versions,
            )
            self._accounts.remove(task.name)
            self._ab_test.taint(versions, _REASON)
            self._end_run(runs)
            audit.record(self._now(), task.actor, "erase user", task.alias, task.reason)

    def _runs(self, ids: list[int]) -> list[int]:
        """Runs that learned from these, by their sets; where a set is lost, any that could have."""
        if not ids:
            return []
        sets = lineage.sets(self._folder)
        could = (TrainingRun.last_interaction >= min(ids)) & TrainingRun.version.is_null(False)
        lost = {run.id for run in TrainingRun.select().where(could) if run.id not in sets}
        return sorted(lost.union(lineage.runs_that_learned_from(self._folder, ids)))

    def _end_run(self, runs: list[int]) -> None:
        """The process at work on it notices that it is no longer its own."""
        values = {
            "status": RunStatus.CANCELLED,
            "cancel": True,
            "outcome": f"The training was cancelled: {_REASON}.",
            "ended_at": self._now(),
        }
        is_open = TrainingRun.id.in_(runs) & TrainingRun.ended_at.is_null()
        for run in list(TrainingRun.select().where(is_open)):
            TrainingRun.update(values).where(TrainingRun.id == run.id).execute()
            audit.record(self._now(), "loop", "cancel training", f"run {run.id}", _REASON)

    def _remove_rows(self, task: _Task) -> None:
        name = task.name
        self._overwrite_deleted()
        while ids := self._next(self._is_of(name)):
            with self._db.atomic():
                removal.remove(ids)
        with self._db.atomic():
            said: Any = Feedback.select(Feedback.interaction).where(Feedback.user == name)
            Reading.delete().where(Reading.interaction.in_(said)).execute()
            digests.forget([id_ for (id_,) in said.tuples()])
            Feedback.delete().where(Feedback.user == name).execute()
            Review.delete().where(Review.user == name).execute()
            Told.delete().where(Told.user == name).execute()
            for some in chunked(task.ids, removal.BATCH):
                Review.delete().where(Review.interaction_id.in_(some)).execute()
            left: Any = Conversation.select(Conversation.id).where(Conversation.user == name)
            removal.remove_conversations([id_ for (id_,) in left.tuples()])
            removal.remove_emptied()
            removal.rename(name, task.alias)

    def _is_of(self, name: str) -> Any:
        theirs: Any = Conversation.select(Conversation.id).where(Conversation.user == name)
        return (Row.user == name) | Row.conversation.in_(theirs)

    # -- what is too old ---------------------------------------------------------------------

    def expire(self) -> int:
        """Delete interactions that are older than may be kept. Returns how many.

        Those of a running test go after it has ended. Small transactions with pauses between: the
        chat goes on meanwhile. Also cleans sets of lines whose interaction is gone.
        """
        with self._alone(_WAIT_SECONDS):
            days = self._retention_days
            removed = self._remove_old(self._now() - timedelta(days=days)) if days else 0
            if removed:
                with self._db.atomic():
                    removal.remove_emptied()
                    text = f"{removed} interactions older than {days} days"
                    audit.record(self._now(), "loop", "expire", reason=text)
            open_runs = TrainingRun.select().where(TrainingRun.ended_at.is_null())
            lineage.take_out(self._folder, self._gone(), [run.id for run in open_runs])
            return removed

    def _remove_old(self, before: datetime) -> int:
        self._overwrite_deleted()
        removed = 0
        is_old = (Row.created_at < before) & (Row.user != removal.GONE)
        tested = Experiment.get_or_none(Experiment.ended_at.is_null())
        may_go = Row.experiment_id.is_null() | (Row.experiment_id != (tested.id if tested else 0))
        while True:
            ids = self._next(is_old & may_go, Row.created_at)
            started = time.monotonic()
            with self._db.atomic():
                removal.remove(ids)
            removed += len(ids)
            if len(ids) < removal.BATCH:
                return removed
            # As long as the batch took: whoever waits to write gets a turn.
            self._pause(time.monotonic() - started)

    # -- inside ------------------------------------------------------------------------------

    def _next(self, which: Any, order: Any = Row.id) -> list[int]:
        rows: Any = Row.select(Row.id).where(which).order_by(order).limit(removal.BATCH)
        return [id_ for (id_,) in rows.tuples()]

    def _gone(self) -> set[int]:
        """Interactions that sets name and the log no longer has."""
        named = lineage.all_ids(self._folder)
        return named - removal.existing(named)

    def write_anew_if_due(self) -> None:
        """At the start of the app, when nobody waits: what large databases were spared before."""
        if self._due.exists():
            self._db.execute_sql("VACUUM")
            self._empty_log()
            self._due.unlink()

    @property
    def _due(self) -> Path:
        return self._folder / "vacuum.due"

    def _overwrite_deleted(self) -> None:
        if not isinstance(self._db, PostgresqlDatabase):
            self._db.execute_sql("PRAGMA secure_delete = ON")

    def _empty_files(self) -> None:
        """Have the deleted bytes leave the database's files."""
        if isinstance(self._db, PostgresqlDatabase):
            self._db.execute_sql("VACUUM interaction, conversation, feedback, review, audit")
            return
        # Deleted rows are overwritten, but older copies of them may lie between others. Only a
        # new file is without those, and whoever writes waits for it: too long for a large one.
        if (self._folder / "usage.db").stat().st_size > _MOST_BYTES:
            self._due.touch()
        else:
            self._db.execute_sql("VACUUM")
        self._empty_log()

    def _empty_log(self) -> None:
        until = time.monotonic() + _EMPTYING_SECONDS
        # Busy at once while another connection copies the log: only for readers SQLite waits.
        while self._db.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > until:
                raise TimeoutError(
                    "The rows are erased, but usage.db-wal is in use all the time and still "
                    "holds them. Run the same command again."
                )
            self._pause(_BETWEEN_SECONDS)

    @contextmanager
    def _alone(self, seconds: float) -> Iterator[None]:
        lock = FileLock(self._folder / "forgetting.lock", timeout=seconds)
        try:
            lock.acquire()
        except Timeout:
            raise BeingErased(
                "A training set is being made or texts are being erased; try again in a minute."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _file(self, name: str) -> Path:
        return self._folder / f"erasing-{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"

    def _begun(self) -> list[Path]:
        return sorted(self._folder.glob("erasing-*.json"))


def _backups_with(data_dir: Path, name: str) -> list[Path]:
    """The backups that hold something of this person, or cannot be read."""
    found = sorted((data_dir / "backups").glob("*/usage.db"))
    return [path.parent for path in found if _holds(path, name)]


def _holds(path: Path, name: str) -> bool:
    # Without a log beside it the file is whole, and looking must leave nothing there.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True)) as backup:
            query = "SELECT 1 FROM {} WHERE {} = ? LIMIT 1"
            places = (("user", "name"), ("conversation", "user"), ("interaction", "user"))
            return any(
                backup.execute(query.format(f'"{table}"', f'"{column}"'), (name,)).fetchone()
                for table, column in places
            )
    except sqlite3.DatabaseError:
        return True
