"""Backups are whole, and putting one in place loses nothing."""

from datetime import timedelta
from pathlib import Path

import pytest

from cl.backup import BackupProblem, backup, restore
from cl.house import Books, House
from tests.fakes import FakeClock, fake_books, fake_settings, talk, write_adapter


def test_a_backup_made_while_the_app_runs_can_be_put_in_place(
    house: House, clock: FakeClock
) -> None:
    settings = house.books.settings
    talk(house, "ana", "Before the backup")
    write_adapter(house.books.models / "v0001", {"a": "b"})
    folder = backup(settings, clock())
    talk(house, "ana", "After the backup")
    house.books.database.close()

    aside = restore(settings, folder, clock())

    restored = fake_books(settings.data_dir, clock)
    assert [r.prompt for r in restored.logger.get_records()] == ["Before the backup"]
    assert (settings.data_dir / "models" / "v0001" / "learned.json").is_file()
    restored.database.close()
    assert aside is not None
    kept = fake_books(aside, clock)
    assert len(list(kept.logger.get_records())) == 2  # what was there before is still somewhere
    kept.database.close()
    house.books.database.bind([])


def test_two_backups_do_not_overwrite_each_other(books: Books, clock: FakeClock) -> None:
    first = backup(books.settings, clock())
    with pytest.raises(BackupProblem, match="exists already"):
        backup(books.settings, clock())
    assert backup(books.settings, clock() + timedelta(seconds=1)) != first


def test_without_a_database_there_is_nothing_to_back_up(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(BackupProblem, match="nothing to back up"):
        backup(fake_settings(tmp_path / "nothing"), clock())


def test_what_is_no_backup_is_refused_and_changes_nothing(
    books: Books, tmp_path: Path, clock: FakeClock
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "usage.db").write_bytes(b"not a database, but long enough to look at" * 100)
    for folder, words in ((tmp_path / "empty", "is not a backup"), (damaged, "is damaged")):
        with pytest.raises(BackupProblem, match=words):
            restore(books.settings, folder, clock())
    assert (books.settings.data_dir / "usage.db").is_file()


def test_another_database_is_backed_up_with_its_own_tools(tmp_path: Path, clock: FakeClock) -> None:
    settings = fake_settings(tmp_path, database_url="postgresql://somewhere/db")
    with pytest.raises(BackupProblem, match="pg_dump"):
        backup(settings, clock())
