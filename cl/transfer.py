"""Moving histories in and out: one JSON object a line.

    {"conversation": [{"role", "content"}...], "response": "...", "feedback": 1 | -1 | 0,
     "group": "...", "user": "...", "correction": "...", "comment": "...", "reasons": [...],
     "created_at": "2026-01-31T09:30:00+00:00"}

`conversation` ends with the user's message; only it and `response` are needed. Lines that share a
`group` are one conversation. A line imported twice is there once.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from peewee import Database

from cl.records import Feedback, Interaction, Message
from cl.rules.text import clean
from cl.usage_logger import UsageLogger

_BATCH = 500
_SHOWN = 20


@dataclass
class Imported:
    """What became of the lines. `rejected` holds the first few as (line number, reason)."""

    added: int = 0
    known: int = 0
    refused: int = 0
    rejected: list[tuple[int, str]] = field(default_factory=list)


def import_lines(
    database: Database,
    logger: UsageLogger,
    lines: Iterable[str],
    tell: Callable[[int], None] = lambda done: None,
) -> Imported:
    """Add the interactions of these lines to the log. Wrong lines are counted and named, not fatal."""
    result = Imported()
    batch: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            batch.append((number, line))
        if len(batch) == _BATCH:
            _store(database, logger, batch, result)
            batch = []
            tell(number)
    _store(database, logger, batch, result)
    return result


def _store(
    database: Database, logger: UsageLogger, batch: list[tuple[int, str]], result: Imported
) -> None:
    with database.atomic():
        for number, line in batch:
            try:
                added = _store_line(logger, line)
            except (ValueError, KeyError, TypeError) as problem:
                result.refused += 1
                if len(result.rejected) < _SHOWN:
                    result.rejected.append((number, _reason(problem)))
            else:
                result.added += added
                result.known += not added


def _store_line(logger: UsageLogger, line: str) -> bool:
    entry = json.loads(line)
    if not isinstance(entry, dict):
        raise ValueError("a line must be a JSON object")
    messages = [_message(m) for m in entry["conversation"]]
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("`conversation` must end with a message of the user")
    feedback = _feedback(entry)
    answer = clean(_text(entry["response"]))
    user = clean(str(entry.get("user") or "imported"))[:64]
    group = str(entry.get("group") or _key(*(m["content"] for m in messages)))
    conversation = logger.imported_conversation(user, _key(user, group), messages[0]["content"])
    turns = [m for m in messages if m["role"] in ("user", "assistant")]
    for index in range(0, len(turns) - 1, 2):
        if turns[index]["role"] == "user" and turns[index + 1]["role"] == "assistant":
            said, got = turns[index]["content"], turns[index + 1]["content"]
            logger.add_finished(user, conversation, said, got, _key(user, group, said, got))
    key = _key(user, group, messages[-1]["content"], answer)
    prompt, at = messages[-1]["content"], _time(entry.get("created_at"))
    return logger.add_finished(user, conversation, prompt, answer, key, feedback, at)


def _message(value: Any) -> Message:
    if not isinstance(value, dict) or value.get("role") not in ("system", "user", "assistant"):
        raise ValueError("a message needs a role (system, user or assistant) and a content")
    return Message(role=value["role"], content=clean(_text(value["content"])))


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(f"`created_at` is {value!r}; it must be an ISO 8601 time") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is missing")
    return value


def _feedback(entry: dict[str, Any]) -> Feedback:
    thumb = entry.get("feedback") or 0
    if isinstance(thumb, bool) or thumb not in (1, -1, 0):
        raise ValueError(f"`feedback` is {thumb!r}; it must be 1, -1 or 0")
    return Feedback(
        thumb=thumb,
        reasons=tuple(entry.get("reasons") or ()),
        comment=clean(str(entry.get("comment") or "")),
        correction=clean(str(entry.get("correction") or "")),
    )


def _key(*parts: str) -> str:
    return "import-" + hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:40]


def _reason(problem: Exception) -> str:
    if isinstance(problem, json.JSONDecodeError):
        return f"not JSON: {problem.msg}"
    return f"{problem.args[0]} is missing" if isinstance(problem, KeyError) else str(problem)


def export_lines(logger: UsageLogger) -> Iterator[str]:
    """The whole log in the form `import_lines` reads, a line an interaction."""
    for row in logger.get_records():
        yield json.dumps(_entry(logger, row), ensure_ascii=False)


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
