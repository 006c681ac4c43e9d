"""Moving histories in and out, and data sets into the forms of other trainers.

What goes out is one JSON object a line:

    {"conversation": [{"role", "content"}...], "response": "...", "feedback": 1 | -1 | 0,
     "group": "...", "user": "...", "correction": "...", "comment": "...", "reasons": [...],
     "status": "complete", "created_at": "2026-01-31T09:30:00+00:00"}

`conversation` ends with the user's message; only it and `response` are needed. Lines that share a
`group` are one conversation; `"learn": false` says that it is not to be learned from. In comes that, or any form `cl.rules.exchange.chat_exports` knows, an object
a line or all in one list. What is imported twice is there once: a run that was cut off is started
again and goes on.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from cl import files
from cl.records import Interaction, Message
from cl.rules.exchange.chat_exports import histories
from cl.rules.exchange.formats import FORMATS, Format
from cl.rules.exchange.json_entries import decode, list_entries
from cl.rules.exchange.placing import History
from cl.usage_logger import UsageLogger

_BATCH, _BATCH_BYTES = 500, 4_000_000
_LONGEST = 32_000_000  # bytes of one line, or of one entry of a list
_CHUNK = 1_000_000
_BOM = b"\xef\xbb\xbf"


@dataclass
class Imported:
    """What became of a file so far: interactions added and rated late, lines known and refused."""

    added: int = 0
    rated: int = 0  # were known without feedback
    known: int = 0  # lines that brought nothing new
    refused: int = 0
    bytes_read: int = 0


def import_file(
    logger: UsageLogger,
    path: Path,
    tell: Callable[[Imported], None] = lambda done: None,
    refuse: Callable[[int, str], None] = lambda number, reason: None,
) -> Imported:
    """Add the interactions of this file to the log.

    Wrong lines are counted and handed to `refuse`, not fatal; entries of a list count as lines.
    Raises ValueError for a file in which there are none.
    """
    done = Imported()
    batch: list[list[History]] = []
    stored = 0
    with _opened(path) as file:
        for number, raw in _entries(file):
            done.bytes_read += _LONGEST if raw is None else len(raw)
            try:
                batch.append(_read(logger, raw))
            except ValueError as problem:
                done.refused += 1
                refuse(number, str(problem))
            if len(batch) == _BATCH or done.bytes_read - stored > _BATCH_BYTES:
                _store(logger, batch, done)
                batch, stored = [], done.bytes_read
                tell(done)
    _store(logger, batch, done)
    if not done.added + done.rated + done.known + done.refused:
        raise ValueError(f"{path} is empty: there is nothing to import.")
    return done


def _read(logger: UsageLogger, raw: bytes | None) -> list[History]:
    if raw is None:
        raise ValueError(f"longer than {_LONGEST // 1_000_000} MB")
    return [
        replace(
            history,
            exchanges=tuple(
                replace(e, feedback=logger.checked(e.feedback)) for e in history.exchanges
            ),
        )
        for history in histories(decode(raw))
    ]


def _store(logger: UsageLogger, batch: list[list[History]], done: Imported) -> None:
    counts = iter(logger.add_imported(list(chain.from_iterable(batch))))
    for entry in batch:
        added, rated = map(sum, zip(*(next(counts) for _ in entry), strict=True))
        done.added += added
        done.rated += rated
        done.known += not (added or rated)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; import takes one file.")
    if not path.exists():
        raise ValueError(f"There is no file {path}.")
    with path.open("rb") as file:
        head = file.peek(_CHUNK)
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError(f"{path} is in UTF-16; save it as UTF-8.")
        if head.startswith(_BOM):
            file.read(len(_BOM))
        elif b"\0" in head and head.lstrip()[:1] not in (b"{", b"["):
            raise ValueError(f"{path} is not a text; import takes JSON, or JSON lines.")
        yield file


def _entries(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """The entries with their numbers, from 1; None for one that is too long to be held."""
    if file.peek(_CHUNK).lstrip()[:1] == b"[":  # type: ignore[attr-defined]
        chunks = iter(lambda: file.read(_CHUNK), b"")
        yield from enumerate(list_entries(chunks, _LONGEST), 1)
        return
    for number, line in enumerate(_lines(file), 1):
        if line is None or line.strip():
            yield number, line


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    while line := file.readline(_LONGEST):
        is_whole = len(line) < _LONGEST or line.endswith(b"\n")
        while len(line) == _LONGEST and not line.endswith(b"\n"):
            line = file.readline(_LONGEST)
        yield line if is_whole else None


def export_lines(logger: UsageLogger, user: str | None = None) -> Iterator[str]:
    """The log, or one person's part, in the form `import_file` reads, a line an interaction."""
    private = logger.private()
    for row in logger.get_records(user=user):
        entry = _entry(logger, row)
        if row.conversation_id in private:
            entry["learn"] = False
        yield json.dumps(entry, ensure_ascii=False)


def _entry(logger: UsageLogger, row: Interaction) -> dict[str, Any]:
    asked = Message(role="user", content=row.prompt)
    return {
        "id": row.id,
        "conversation": [*logger.context(row.conversation_id, row.id), asked],
        "response": row.answer,
        "feedback": row.feedback.thumb,
        "correction": row.feedback.correction,
        "comment": row.feedback.comment,
        "reasons": list(row.feedback.reasons),
        "user": row.user,
        "group": str(row.conversation_id),
        "version": row.version,
        "status": row.status.value,
        "quality": row.quality,
        "created_at": row.created_at.isoformat(),
    }


def convert_folder(folder: Path, name: str) -> list[Path]:
    """Write the data set in `folder` once more in the form called `name`. Returns the new files.

    Raises ValueError for a form that is unknown or that this data set has nothing for.
    """
    if name not in FORMATS:
        raise ValueError(f"{name!r} is not a format; there are {', '.join(FORMATS)}.")
    wanted = FORMATS[name]
    sources = wanted.sources
    missing = [source for source in sources if not (folder / source).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no {missing[0]}, which the format {name} is made from.")
    paths = {split: folder / f"{split}.{name}.jsonl" for split in ("train", "val")}
    with ExitStack() as stack:
        targets = {split: stack.enter_context(files.writing(path)) for split, path in paths.items()}
        for source in sources:
            for line in _types_first(folder / source, wanted):
                split = line.get("split") or Path(source).stem
                text = json.dumps(wanted.convert(line), ensure_ascii=False)
                targets[split].write(text + "\n")
    return list(paths.values())


def _types_first(source: Path, wanted: Format) -> Iterator[dict[str, Any]]:
    """The lines of a data set, in order but for the one that shows the types of all."""
    with source.open(encoding="utf-8") as lines:
        converted = enumerate(wanted.convert(json.loads(line)) for line in lines)
        first = next((n for n, line in converted if wanted.shows_types(line)), 0)
    for is_first in (True, False):
        with source.open(encoding="utf-8") as lines:
            yield from (json.loads(x) for n, x in enumerate(lines) if (n == first) is is_first)
