"""Backups: the database, the published versions and the scorers in one folder, taken while the app runs."""

import shutil
import sqlite3
from datetime import datetime
from pathlib import Path

from cl import files
from cl.settings import Settings


class BackupProblem(ValueError):
    """The backup cannot be made or used; the text says why."""


def backup(settings: Settings, now: datetime, folder: Path | None = None) -> Path:
    """Copy usage.db, models/v* and scorers/ into a new folder, by default under backups/. Returns it."""
    _refuse_postgres(settings)
    source = settings.data_dir / "usage.db"
    if not source.is_file():
        raise BackupProblem(f"There is nothing to back up: {source} does not exist.")
    target = folder or settings.data_dir / "backups" / now.strftime("%Y%m%d-%H%M%S")
    if target.exists():
        raise BackupProblem(f"{target} exists already.")
    with files.new_folder(target) as aside:
        # SQLite's own backup: a whole copy, whatever is being written meanwhile.
        original, copy = sqlite3.connect(source), sqlite3.connect(aside / "usage.db")
        try:
            original.backup(copy)
        finally:
            original.close()
            copy.close()
        for path in _published(settings.data_dir):
            shutil.copytree(path, aside / path.relative_to(settings.data_dir))
    return target


def restore(settings: Settings, folder: Path, now: datetime) -> Path | None:
    """Put a backup in place. What was there is moved aside and returned. The app must be stopped."""
    _refuse_postgres(settings)
    saved = folder / "usage.db"
    if not saved.is_file():
        raise BackupProblem(f"{folder} is not a backup: it has no usage.db.")
    _refuse_damage(saved)
    data = settings.data_dir
    aside = data / "backups" / now.strftime("before-restore-%Y%m%d-%H%M%S")
    moved = [*data.glob("usage.db*"), *_published(data)]
    for path in moved:
        to = aside / path.relative_to(data)
        to.parent.mkdir(parents=True, exist_ok=True)
        path.rename(to)
    for path in _published(folder):
        with files.new_folder(data / path.relative_to(folder)) as new:
            shutil.copytree(path, new, dirs_exist_ok=True)
    partial = data / f"{files.TEMPORARY}usage.db"
    shutil.copyfile(saved, partial)
    partial.rename(data / "usage.db")
    return aside if moved else None


def _published(data: Path) -> list[Path]:
    """The folders beside the database that cannot be made again from it."""
    return sorted([*(data / "models").glob("v*"), *(data / "scorers").glob("scorer-*")])


def _refuse_postgres(settings: Settings) -> None:
    if settings.database_url:
        raise BackupProblem(
            "The database is not usage.db: back it up with its own tools, e.g. pg_dump."
        )


def _refuse_damage(path: Path) -> None:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as problem:
        raise BackupProblem(f"{path} is damaged: {problem}.") from None
    finally:
        connection.close()
    if found != "ok":
        raise BackupProblem(f"{path} is damaged: {found}.")
