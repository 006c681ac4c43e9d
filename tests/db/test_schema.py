"""The migrations and the tables agree, and the database can be opened whatever its history."""

import sqlite3
import threading
from pathlib import Path

import pytest
from peewee import IntegrityError, PeeweeException
from playhouse.migrations import Runner

from cl.ab_test import ABTestManager
from cl.db import tables
from cl.db.database import MIGRATIONS, DatabaseProblem, open_database
from cl.db.tables import TABLES, Check, Interaction, TrainingRun
from cl.house import Books
from cl.records import Outcome, Status
from tests.fakes import FakeClock, answered
from tests.schema import schema


def test_the_migrations_make_exactly_the_tables_that_are_declared(tmp_path: Path) -> None:
    migrated = open_database(tmp_path / "migrated")
    declared = open_database(tmp_path / "declared")
    for table in TABLES:
        declared.execute_sql(f'DROP TABLE IF EXISTS "{table._meta.table_name}"')
    declared.create_tables(TABLES)
    assert schema(migrated) == schema(declared)
    assert len(schema(migrated)) >= len(TABLES)
    migrated.close()
    declared.close()


def test_a_test_that_goes_on_counts_what_it_saw_before_the_ledger_was_there(books: Books) -> None:
    for name in ("v0001", "v0002"):
        books.ab_test.register(name, parent="base", run_id=None, sha256="x")
        books.ab_test.deploy_challenger(name)
    for thumb in (1, -1, 0):
        conversation = books.logger.open_conversation("ana", "Q")
        route = books.ab_test.route_request(conversation)
        interaction = books.logger.log("ana", conversation, "Q?", route)
        status = Status.COMPLETE if thumb else Status.ERROR
        books.logger.finish(interaction, Outcome(status, "A", 1.0, 0.1))
        if thumb:
            books.logger.record_feedback(interaction, "ana", thumb=thumb)
    counted = books.ab_test.compare_models()
    assert counted is not None
    Check.delete().execute()
    runner = Runner(books.database, str(MIGRATIONS))
    runner.down("0004_decisions")
    runner.up()
    again = ABTestManager(books.database, books.thresholds.experiment, books.clock).compare_models()
    assert again == counted
    assert again.champion.requests + again.challenger.requests == 3


def test_every_table_is_in_the_list() -> None:
    found = {
        t
        for t in vars(tables).values()
        if isinstance(t, type) and issubclass(t, tables.Table) and t is not tables.Table
    }
    assert found == set(TABLES)


def test_migrations_are_numbered_without_a_gap() -> None:
    names = sorted(path.stem for path in MIGRATIONS.glob("[0-9]*.py"))
    assert [name[:4] for name in names] == [f"{n:04d}" for n in range(1, len(names) + 1)]


def test_opening_twice_changes_nothing(tmp_path: Path) -> None:
    first = open_database(tmp_path)
    before = schema(first)
    first.close()
    second = open_database(tmp_path)
    assert schema(second) == before
    second.close()


def test_processes_that_start_together_do_not_both_make_the_tables(tmp_path: Path) -> None:
    problems: list[Exception] = []

    def start() -> None:
        try:
            open_database(tmp_path).close()
        except (DatabaseProblem, PeeweeException) as problem:
            problems.append(problem)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_damaged_file_is_refused_with_what_to_do(books: Books) -> None:
    talk = books.logger.open_conversation("ana", "Q")
    with books.database.atomic():
        for number in range(2000):
            answered(books, f"Question {number}", "A" * 200, talk)
    books.database.close()
    path = books.settings.data_dir / "usage.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 8192)
    with pytest.raises(DatabaseProblem, match="python -m cl restore"):
        open_database(books.settings.data_dir)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "usage.db").write_bytes(b"hello " * 1000)
    with pytest.raises(DatabaseProblem, match="cannot be used"):
        open_database(tmp_path)


@pytest.mark.parametrize("url", ["mongodb://x/y", "nonsense", "://"])
def test_an_address_of_no_database_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DatabaseProblem, match="CL_DATABASE_URL"):
        open_database(tmp_path, url)


def test_the_log_survives_the_loss_of_power(books: Books) -> None:
    """WAL with a sync at each commit: what was acknowledged is on the disk."""
    assert books.database.execute_sql("PRAGMA journal_mode").fetchone() == ("wal",)
    assert books.database.execute_sql("PRAGMA synchronous").fetchone() == (2,)
    assert books.database.execute_sql("PRAGMA foreign_keys").fetchone() == (1,)


def test_one_open_run_at_most(books: Books, clock: FakeClock) -> None:
    run = {"trigger": "manual", "reason": "", "status": "requested", "requested_by": "ana"}
    TrainingRun.create(started_at=clock(), **run)
    with pytest.raises(IntegrityError):
        TrainingRun.create(started_at=clock(), **run)


def test_times_come_back_in_utc_to_the_millisecond(books: Books, clock: FakeClock) -> None:
    clock.now = clock.now.replace(microsecond=123_456)
    answered(books, "Q", "A")
    stored = Interaction.get().created_at
    assert stored == clock.now.replace(microsecond=123_000)
    assert stored.tzinfo is not None


def test_a_server_that_cannot_be_reached_is_named_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(DatabaseProblem, match="CL_DATABASE_URL") as refused:
        open_database(tmp_path, "postgresql://me:secret@127.0.0.1:1/usage?connect_timeout=1")
    assert "127.0.0.1" in str(refused.value)
    assert "secret" not in str(refused.value)
