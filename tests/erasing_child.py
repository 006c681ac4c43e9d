"""Erases a person in a process of its own, which kills itself on the way."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peewee import Database

from cl import files
from tests.fakes import FakeClock, fake_books


def erase(folder: Path, name: str, dies_at: int) -> None:
    """Die before the statement or file operation of this number; a file tells that the end came."""
    books = fake_books(folder, FakeClock())
    left = [dies_at]

    def deadly(work: Callable[..., Any]) -> Callable[..., Any]:
        def worked(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(*given, **named)

        return worked

    Database.execute_sql = deadly(Database.execute_sql)  # type: ignore[method-assign]
    Path.replace = deadly(Path.replace)  # type: ignore[method-assign]
    Path.unlink = deadly(Path.unlink)  # type: ignore[method-assign]
    files.write_text = deadly(files.write_text)
    books.forgetting.erase(name, "operator", "asked for it")
    (folder.parent / "end").touch()
