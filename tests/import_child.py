"""Imports a file in a process of its own, to be killed."""

from pathlib import Path

from cl import transfer
from tests.fakes import FakeClock, fake_books


def bring(folder: Path, file: Path) -> None:
    """What `python -m cl import` does, in small batches; a file tells that the end was reached."""
    transfer._BATCH = 20
    with fake_books(folder, FakeClock()) as books:
        transfer.import_file(books.logger, file)
    (folder / "end").touch()
