"""Writing files so that a crash never leaves half of one under its final name.

Everything is written under a temporary name, synced to disk, then renamed. Leftovers of a crash
start with `.tmp-` and are swept at start.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import psutil

TEMPORARY = ".tmp-"


@contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """A text file to write; it replaces the one of that name when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with aside.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content, all or nothing."""
    with writing(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder to fill; it appears under its final name when the block ends well, else it is gone."""
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f"{TEMPORARY}{os.getpid()}-{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        for path in (*aside.rglob("*"), aside):
            _sync(path)
        aside.rename(final)
        _sync(final.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> int:
    """Remove what crashes left behind in and below this folder. Returns how many things there were.

    What another living process is writing at this moment stays.
    """
    left = [path for path in folder.rglob(f"{TEMPORARY}*") if not _is_being_written(path)]
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(left)


def _is_being_written(path: Path) -> bool:
    writer = re.match(r"(\d{1,9})-", path.name.removeprefix(TEMPORARY))
    return (
        writer is not None and int(writer[1]) != os.getpid() and psutil.pid_exists(int(writer[1]))
    )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
