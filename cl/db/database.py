"""Opening the database: SQLite beside the data, or PostgreSQL by URL; always fully migrated."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock
from peewee import (
    Database,
    DatabaseError,
    ImproperlyConfigured,
    PostgresqlDatabase,
    SqliteDatabase,
)
from playhouse.db_url import connect
from playhouse.migrations import Runner

from cl.db.tables import TABLES

MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x636C  # any fixed number; PostgreSQL's advisory locks are named by one


class DatabaseProblem(RuntimeError):
    """The database cannot be used; the text says why and what to do."""


def open_database(data_dir: Path, url: str = "") -> Database:
    """Connect, bring the schema up to date, and bind the tables to this database."""
    data_dir.mkdir(parents=True, exist_ok=True)
    database = _connect(data_dir / "usage.db", url)
    try:
        with _one_at_a_time(database, data_dir):
            Runner(database, str(MIGRATIONS)).up()
        if isinstance(database, SqliteDatabase):
            _refuse_damage(database)
    except ImproperlyConfigured:
        raise DatabaseProblem(
            'PostgreSQL needs one more package: pip install "psycopg[binary]"'
        ) from None
    except (DatabaseError, sqlite3.DatabaseError) as problem:
        database.close()
        raise DatabaseProblem(_explain(problem, data_dir / "usage.db", url)) from problem
    database.bind(TABLES)
    return database


def _explain(problem: Exception, path: Path, url: str) -> str:
    why = " ".join(str(problem).split())
    if url:
        return f"The database at {urlsplit(url).hostname} cannot be used: {why}. Check CL_DATABASE_URL."
    return (
        f"The database {path} cannot be used: {why}. "
        "If the file is damaged, stop the app and run: python -m cl restore BACKUP"
    )


def _connect(path: Path, url: str) -> Database:
    if url:
        try:
            # A server without an encoding of its own would hand out bytes.
            options = {"client_encoding": "utf8"} if url.startswith("postgres") else {}
            database: Database = connect(url, unquote_password=True, **options)
        except (RuntimeError, ValueError) as problem:
            raise DatabaseProblem(
                f"CL_DATABASE_URL is not a database this product knows: {problem}"
            ) from None
        return database
    # Immediate transactions: a deferred one that reads first and writes later fails at once
    # ("database is locked") when another thread wrote in between, whatever the timeout.
    return SqliteDatabase(
        str(path),
        pragmas={
            "journal_mode": "wal",
            "synchronous": "full",
            "foreign_keys": 1,
            "cache_size": -32000,
        },
        timeout=10,
        lock_type="immediate",
    )


@contextmanager
def _one_at_a_time(database: Database, data_dir: Path) -> Iterator[None]:
    """Two processes that start together must not both create the tables."""
    if isinstance(database, PostgresqlDatabase):
        database.execute_sql("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        try:
            yield
        finally:
            database.execute_sql("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))
    else:
        with FileLock(data_dir / "migrate.lock"):
            yield


def _refuse_damage(database: SqliteDatabase) -> None:
    # Counting rows can succeed on a damaged file; this looks at every page's structure.
    found = database.execute_sql("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise DatabaseError(found)
