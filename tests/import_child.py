"""Imports a file in a process of its own, to be killed."""

from pathlib import Path

import pytest

from cl import transfer
from tests.fakes import FakeClock, fake_books


def bring(folder: Path, file: Path) -> None:
    """What `python -m cl import` does, in small batches; a file tells that the end was reached."""
    with pytest.MonkeyPatch.context() as small, fake_books(folder, FakeClock()) as books:
        small.setattr(transfer, "_BATCH", 20)
        transfer.import_file(books.logger, file)
    (folder / "end").touch()
